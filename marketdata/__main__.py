"""`python -m marketdata --asyncapi`: docs/asyncapi.yaml anew."""

import argparse
import sys

from marketdata.asyncapi import document


def asyncapi_yaml() -> str:
    """The text of docs/asyncapi.yaml."""
    import yaml

    class Dumper(yaml.SafeDumper):
        """Longer texts as blocks that can be read."""

    def text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
        return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)

    Dumper.add_representer(str, text)
    return yaml.dump(document(), Dumper=Dumper, sort_keys=False, allow_unicode=True, width=120)


def main() -> int:
    """Run the command. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m marketdata", description="What the topics hold.")
    parser.add_argument("--asyncapi", action="store_true", required=True, help="print docs/asyncapi.yaml")
    parser.parse_args()
    sys.stdout.write(asyncapi_yaml())
    return 0


if __name__ == "__main__":
    sys.exit(main())
