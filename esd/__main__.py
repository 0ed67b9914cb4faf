"""python -m esd: the commands there are, with a line each."""

from __future__ import annotations

from pathlib import Path

from esd.command.help import commands


def main() -> None:
    found = commands(Path(__file__).parent)
    print("Erase a concept from a text-to-image diffusion model, in its own weights. The commands:\n")
    for call, text in found.items():
        print(f"  python -m {call}\n      {text}")
    print("\nEach has --help.")


if __name__ == "__main__":
    main()
