"""The command line: python main.py --exp NAME [flags] [section.key=value ...]."""

import argparse
import os
import sys
from collections.abc import Callable

# Before torch is imported: threads that wait by spinning make a training step on a shared machine ten times slower.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

from configs import commands, flags


def build_parser() -> argparse.ArgumentParser:
    """Flags are in groups, by what they are for; every experiment reads those that concern it."""
    experiments = "\n".join(f"  {name:<12} {command.help}" for name, command in commands.COMMANDS.items())
    parser = argparse.ArgumentParser(
        prog="main.py", formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False,
        description="Two-stage latent video diffusion.\n\nexperiments (--exp):\n" + experiments,
        epilog="Settings of a YAML are changed with dotted keys anywhere on the line: optim.lr=2e-4 loop.save_every=500.\n"
               "torchrun --standalone --nproc_per_node=N main.py ... runs the same on N processes.")
    parser.add_argument("--exp", required=True, choices=list(commands.COMMANDS), metavar="NAME", help="what to do, see above")
    parser.add_argument("--dry-run", action="store_true", help="print the resolved settings and exit")
    for title, group_flags in flags.FLAGS.items():
        group = parser.add_argument_group(title)
        for flag in group_flags:
            group.add_argument(flag.name, **flag.options)
    parser.add_argument("--config_mod", nargs="+", action="extend", default=[], metavar="KEY=VALUE",
                        help="the same as bare KEY=VALUE")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="settings that replace those of the YAML")
    return parser


def join_values(argv: list[str]) -> list[str]:
    """Let `--known -4--1` parse: argparse would take the value for a flag."""
    joined: list[str] = []
    for word in argv:
        if joined and joined[-1] == "--known":
            joined[-1] = f"--known={word}"
        else:
            joined.append(word)
    return joined


class Parser:
    """Makes argparse fail as everything else here does: one line, status 2."""

    def __init__(self):
        self.parser = build_parser()
        self.parser.error = self.fail

    @staticmethod
    def fail(message: str):
        raise ValueError(f"{message}; see main.py --help")

    def parse(self, argv: list[str]) -> argparse.Namespace:
        args = self.parser.parse_intermixed_args(join_values(argv))
        args.overrides = [*args.config_mod, *args.overrides]
        return args


def main(argv: list[str] | None = None) -> int:
    """Run one experiment; return the exit status (2: the user can mend it)."""
    try:
        args = Parser().parse(sys.argv[1:] if argv is None else argv)
        run: Callable[[argparse.Namespace], None] = commands.COMMANDS[args.exp].run
        with commands.processes(args):
            run(args)
    except ValueError as error:
        print("error: " + " ".join(str(error).split()), file=sys.stderr)
        return 2
    except FloatingPointError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        return 1
    except OSError as error:  # a folder that cannot be written, a full disk
        if error.filename is None:
            raise
        print(f"error: {error.filename}: {error.strerror}; give another --out or --results, or free the place", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
