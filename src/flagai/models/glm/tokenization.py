"""The GLM tokenizers: one class over the fast tokenizers of Hugging Face, built from the published vocabulary files.

It knows no model: which ids mean what is in `commands`, how files become a tokenizer in `tokenization_build`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final

from transformers import PreTrainedTokenizerFast

from flagai.errors import CheckpointError
from flagai.models.glm.commands import (
    Commands,
    CommandToken,
    LayoutName,
    check_layout,
    commands_of,
)
from flagai.models.glm.inputs_checks import check_masks
from flagai.models.glm.tokenization_build import (
    Built,
    build_byte_bpe,
    build_sentencepiece,
    build_wordpiece,
    canonical,
)
from flagai.models.glm.tokenization_folders import (
    COMMANDS_KEY,
    CONFIG_FILE,
    TOKENIZER_FILE,
    VOCABULARIES,
    beside,
    check_fit,
    check_kind,
    layout_of,
    recognise,
    vocabulary_file,
)
from flagai.models.glm.tokenization_original import OriginalMethods
from flagai.models.quiet import quiet_transformers

if TYPE_CHECKING:
    from transformers import BatchEncoding

_NAMED: Final = {"cls": "ENC", "eos": "eos", "pad": "pad", "sep": "sep", "unk": "unk", "mask": "MASK"}


class GLMTokenizer(OriginalMethods, PreTrainedTokenizerFast):
    """A tokenizer of transformers that knows GLM's command tokens; `from_vocabulary` builds one.

    Called with texts it frames them as [CLS] … eos, as the published remote code does. White space in front of a mask
    token is dropped, behind it kept (BERT's vocabulary keeps none anywhere); the remote code drops both and so cannot
    reproduce published results.
    """

    model_input_names: ClassVar[list[str]] = ["input_ids", "attention_mask"]

    # No __init__: transformers would then rebuild the tokenizer from its parts instead of reading tokenizer.json.

    @classmethod
    def from_vocabulary(
        cls,
        path: str | Path,
        *,
        layout: LayoutName | None = None,
        task_mask: bool | None = None,
        dblock: bool = False,
        lower_case: bool | None = None,
        model_max_length: int | None = None,
    ) -> GLMTokenizer:
        """Build a tokenizer from published vocabulary files.

        Args:
            path: a folder with `cog-pretrain.model`, `vocab.json` and `merges.txt`, or `vocab.txt`; or one of these
                files. Any WordPiece vocabulary will do, one of single characters too.
            layout: one of `commands.LAYOUTS`; by default what the files are, `chinese-large` for the Chinese one.
            task_mask: with [sMASK] and [gMASK]; default as the published models of the layout.
            dblock: with [dBLOCK].
            lower_case: for vocab.txt; default: whether the vocabulary knows capitals.

        Errors: `MissingFileError`; `ModelError` for a vocabulary that does not fit the layout; `CheckpointError` for a
            damaged file; `MissingExtraError` where protobuf is wanted.
        """
        file = vocabulary_file(Path(path))
        kind = check_layout(layout) if layout is not None else layout_of(file)
        check_kind(file, kind)
        if kind == "bert":
            built = build_wordpiece(file, task_mask=task_mask, dblock=dblock, lower_case=lower_case)
        elif kind in ("gpt2", "roberta"):
            merges = beside(file, "merges.txt")
            built = build_byte_bpe(file, merges, kind, task_mask=task_mask, dblock=dblock)
        else:
            built = build_sentencepiece(file, kind, task_mask=task_mask, dblock=dblock)
        options = {} if model_max_length is None else {"model_max_length": model_max_length}
        return cls._of(built, kind, options)

    @classmethod
    def _of(cls, built: Built, layout: LayoutName, options: Mapping[str, Any]) -> GLMTokenizer:
        names = canonical(built.tokens)
        by_name = {token.name: names[token.Id] for token in built.tokens}
        named = {f"{field}_token": by_name[name] for field, name in _NAMED.items()}
        others = [token for token in names.values() if token not in named.values()]
        return cls(
            tokenizer_object=built.backend,
            clean_up_tokenization_spaces=False,
            extra_special_tokens=others,
            glm_layout=layout,
            glm_base_size=built.base_size,
            glm_commands=[[token.name, token.token, token.Id, token.lstrip] for token in built.tokens],
            **named,
            **options,
        )

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *inputs: Any, **kwargs: Any) -> Any:
        """As transformers has it; a folder with published vocabulary files alone is read as `from_vocabulary` does.

        Errors: `CheckpointError` for a tokenizer.json that `save_pretrained` of a GLM tokenizer did not write.
        """
        folder = Path(str(pretrained_model_name_or_path))
        if folder.is_dir() and not (folder / TOKENIZER_FILE).is_file():
            return glm_tokenizer_of(folder) or cls.from_vocabulary(folder)
        made = super().from_pretrained(pretrained_model_name_or_path, *inputs, **kwargs)
        if COMMANDS_KEY not in made.init_kwargs:
            raise CheckpointError(
                f"{CONFIG_FILE} does not say which are the command tokens",
                expected=f"a folder that GLMTokenizer.save_pretrained wrote, or {VOCABULARIES}",
                fix="copy the vocabulary files into the folder and take tokenizer.json out",
                where=str(folder),
            )
        return made

    # command tokens

    @property
    def glm_layout(self) -> str:
        """Which of `commands.LAYOUTS` the ids follow."""
        return self.init_kwargs["glm_layout"]

    @property
    def base_size(self) -> int:
        """Ids of the vocabulary without the command tokens behind it."""
        return self.init_kwargs["glm_base_size"]

    @property
    def command_tokens(self) -> tuple[CommandToken, ...]:
        """The command tokens in the original's order."""
        return tuple(CommandToken(*row) for row in self.init_kwargs[COMMANDS_KEY])

    @property
    def commands(self) -> Commands:
        """The ids of the command tokens by name."""
        return commands_of(self.command_tokens)

    @property
    def sop_token_id(self) -> int:
        """What a piece begins with when it is fed."""
        return self.commands.sop

    @property
    def eop_token_id(self) -> int:
        """What a generated piece ends with: the `eos_token_id` of `generate`."""
        return self.commands.eop

    @property
    def smask_token_id(self) -> int | None:
        """[sMASK], a sentence or more."""
        return self.commands.smask

    @property
    def gmask_token_id(self) -> int | None:
        """[gMASK], a long text up to the end; in `chinese-10b` the same id as eop."""
        return self.commands.gmask

    @property
    def dblock_token_id(self) -> int | None:
        """[dBLOCK], which hides words of a span in pre-training."""
        return self.commands.dblock

    @property
    def mask_token_ids(self) -> tuple[int, ...]:
        """The ids of all mask tokens there are."""
        return self.commands.mask_ids

    # contexts

    def encode_context(self, text: str) -> list[int]:
        """The ids of a text to fill in: [CLS], the text, eos. A text that ends in [gMASK] goes on, so it gets no eos.

        Errors: `DataError` for a mask token that the vocabulary lacks; whether there is a mask at all is not asked.
        """
        check_masks(text, self.commands)
        commands = self.commands
        end = [] if text.endswith("[gMASK]") else [commands.eos]
        return [commands.cls, *self.EncodeAsIds(text), *end]

    def mask_positions(self, ids: Sequence[int]) -> list[int]:
        """Where the mask tokens stand, of whatever kind, in order."""
        masks = set(self.mask_token_ids)
        return [place for place, number in enumerate(ids) if number in masks]

    # model inputs

    def build_inputs_for_generation(
        self, model_input: Any, max_gen_length: int = 512, targets: Any = None, padding: bool = False
    ) -> BatchEncoding:
        """See `inputs.build_inputs_for_generation`."""
        from flagai.models.glm import inputs

        return inputs.build_inputs_for_generation(self, model_input, max_gen_length, targets, padding)

    def build_inputs_for_multiple_choice(
        self, model_input: Any, choices: Sequence[Sequence[str]], max_length: int | None = None
    ) -> BatchEncoding:
        """See `inputs.build_inputs_for_multiple_choice`."""
        from flagai.models.glm import inputs

        return inputs.build_inputs_for_multiple_choice(self, model_input, choices, max_length)

    def build_inputs(self, texts: str | Sequence[str], **options: Any) -> BatchEncoding:
        """See `inputs.build_inputs`: the light form for `GLMForConditionalGeneration`."""
        from flagai.models.glm import inputs

        return inputs.build_inputs(self, texts, **options)


def glm_tokenizer_of(folder: str | Path) -> GLMTokenizer | None:
    """The tokenizer of a folder that holds a GLM's, in whatever published form; None for any other folder.

    Errors: `MissingFileError` for a GLM without a vocabulary; `ModelError` where the vocabulary does not fit the
        weights; `CheckpointError` for damaged files; `MissingExtraError` where protobuf is wanted.
    """
    folder = Path(folder)
    found = recognise(folder)
    if found is None:
        return None
    if found.saved:
        with quiet_transformers():
            return GLMTokenizer.from_pretrained(str(folder), local_files_only=True)
    made = GLMTokenizer.from_vocabulary(
        folder, layout=found.layout, lower_case=found.lower_case, model_max_length=found.model_max_length
    )
    check_fit(found, made.command_tokens, made.num_tokens, made.glm_layout, str(folder))
    return made
