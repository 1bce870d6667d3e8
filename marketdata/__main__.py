"""`python -m marketdata --asyncapi`: print docs/asyncapi.yaml."""

import sys

from marketdata.arguments import Parser
from marketdata.asyncapi import document
from marketdata.printable import write_lines


def asyncapi_yaml() -> str:
    """Return the text of docs/asyncapi.yaml."""
    import yaml

    class Dumper(yaml.SafeDumper):
        """Writes strings of several lines as literal blocks."""

    def text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
        return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)

    Dumper.add_representer(str, text)
    return yaml.dump(document(), Dumper=Dumper, sort_keys=False, allow_unicode=True, width=120)


def main() -> int:
    """Run the command and return the exit code."""
    parser = Parser(prog="python -m marketdata", description="Document the Kafka topics.")
    parser.add_argument("--asyncapi", action="store_true", required=True, help="print docs/asyncapi.yaml")
    parser.parse_args()
    write_lines(sys.stdout, asyncapi_yaml().rstrip("\n"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
