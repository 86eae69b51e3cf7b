"""Options of the language model whose samples a command asks for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from prm.cli.options import ForwardOptions, OptionRules, check_least
from prm.errors import ConfigError
from prm.generators.generator import Sampling

if TYPE_CHECKING:
    from prm.generators.generator import Generator

DEFAULT_KEY = "OPENAI_API_KEY"


@dataclass(frozen=True, kw_only=True)
class GeneratorOptions(ForwardOptions):
    """The generator.

    Args:
        generator: Folder of a causal language model, or URL of a server with an OpenAI API.
        temperature: Softmax temperature of the generator; 0 takes the most probable token.
        top_p: Draw from the most probable tokens with this much mass.
        max_new_tokens: Tokens of a response; in beam search, of a step.
        prompt_suffix: Give the generator the prompt as plain text, followed by this, and not
            through a chat template. Without it, a generator that has no chat template gets a line
            break.
        generator_model: Name of the model on the server; by default the only one it has.
        api_key_variable: Environment variable with the server's key; by default OPENAI_API_KEY.
        concurrency: Requests to the server at the same time; by default 8.
        batch_size: Samples that a local generator draws together; by default 32.

    Raises:
        ConfigError: There is no such generator, or a number is out of range.
    """

    NEEDS: ClassVar[OptionRules] = (
        ("--generator_model", "a URL as --generator"),
        ("--api_key_variable", "a URL as --generator"),
        ("--concurrency", "a URL as --generator"),
        ("--batch_size", "a folder as --generator"),
    )

    generator: str
    temperature: float = 0.8
    top_p: float = 1.0
    max_new_tokens: int = 512
    prompt_suffix: str | None = None
    generator_model: str | None = None
    api_key_variable: str | None = None
    concurrency: int | None = None
    batch_size: int | None = None

    def __post_init__(self) -> None:
        if not self._is_server and not Path(self.generator).is_dir():
            expected = "a folder with a causal language model, or the URL of a server"
            raise ConfigError("there is no such generator", expected=expected, got=self.generator)
        super().__post_init__()
        check_least("--concurrency", self.concurrency, 1)
        check_least("--batch_size", self.batch_size, 1)
        self._sampling()

    def given(self) -> set[str]:
        kind = "a URL as --generator" if self._is_server else "a folder as --generator"
        return super().given() | {kind}

    def load_generator(self) -> Generator:
        """Load the model, or connect to the server.

        Raises:
            ConfigError: The address is wrong.
            ModelError: The folder cannot be loaded.
        """
        from prm.spec import Template

        suffix = self.prompt_suffix
        template = None if suffix is None else Template(suffix=suffix)
        if self._is_server:
            from prm.generators.openai import OpenAIGenerator

            return OpenAIGenerator(
                self.generator,
                self.generator_model,
                sampling=self._sampling(),
                template=template,
                api_key_variable=self.api_key_variable or DEFAULT_KEY,
                concurrency=self.concurrency or 8,
            )
        from prm.generators.local import LocalGenerator

        return LocalGenerator(
            self.generator,
            sampling=self._sampling(),
            template=template,
            device=self.device,
            batch_size=self.batch_size or 32,
        )

    @property
    def _is_server(self) -> bool:
        return self.generator.startswith(("http://", "https://"))

    def _sampling(self) -> Sampling:
        return Sampling(self.temperature, self.top_p, self.max_new_tokens)
