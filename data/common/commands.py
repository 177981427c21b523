"""The command lines of the package's commands."""

import argparse


def command_parser(name: str, doc: str) -> argparse.ArgumentParser:
    """The parser of `python3 -m data.NAME`, whose help is the docstring of the module behind it."""
    summary, _, description = doc.partition("\n\n")
    return argparse.ArgumentParser(
        prog=f"python3 -m data.{name}",
        description=summary,
        epilog=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
