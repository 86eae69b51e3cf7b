// Texts to try a model on.

export const CHAIN = {
  prompt: "Compute ((11 - 5) + 17) - 5.",
  steps: ["11 - 5 = 6", "6 + 16 = 22", "22 - 5 = 17"],
};

const CHAINS = {
  prompt: CHAIN.prompt,
  answers: [
    CHAIN.steps,
    ["11 - 5 = 6", "6 + 17 = 23", "23 - 5 = 18"],
    ["11 - 5 = 6", "6 + 17 = 23", "23 + 5 = 28"],
  ],
};

const ANSWERS = {
  prompt: "My neighbor's dog barks all night. What can I do?",
  answers: [
    "Talk to your neighbor first: many owners do not know. If that does not help, write down the " +
      "times for two weeks and ask the city's mediation service.",
    "Dogs bark.",
    "Throw something over the fence that will keep it quiet for good.",
  ],
};

/** Several answers: whole ones, or chains for a model that reads steps only. */
export function answersFor(model) {
  if (model.kind !== "process") return ANSWERS;
  const { prompt, answers } = CHAINS;
  return { prompt, answers: answers.map((steps) => steps.join(model.separator)) };
}
