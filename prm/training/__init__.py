"""Lightning modules, callbacks and what ranks have to agree on."""
