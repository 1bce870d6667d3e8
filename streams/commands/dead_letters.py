"""The command `dead-letters`: list refused records, count them by reason, send them back after a fix."""

from collections import Counter

import click
from faust.cli import argument, option

from marketdata.errors import InvalidValueError
from marketdata.records import DeadLetter
from marketdata.times import from_rfc3339
from marketdata.topics import TopicRole
from streams.commands.arguments import FROM_OPTION, TO_OPTION, Span, find_market, find_role, newest
from streams.commands.command import COUNT, JSON_OPTION, StreamsCommand
from streams.commands.republish import Counts, republish

_TAIL = 20_000
LIST, REPUBLISH = "list", "republish"


class dead_letters(StreamsCommand):  # noqa: N801  Faust names a command by its class
    """List refused records (the default), or send them back after a fix.

    `republish` sends the original bytes and key back to the topic that they came from: of the chosen letters those that
    would be accepted now, and each letter at most once.
    """

    options = [  # noqa: RUF012  Faust's name and type
        argument("action", type=click.Choice([LIST, REPUBLISH]), default=LIST),
        option("--reason", help="Only this reason code."),
        option("--field", help="Only those refused for this field."),
        option("--topic", help="Only what came from this topic."),
        option("--market", help="Only this market's: those with its key."),
        FROM_OPTION,
        TO_OPTION,
        option("--counts", is_flag=True, help="list: count by reason instead."),
        option("-n", "--count", type=COUNT, default=20, show_default=True, help="list: how many."),
        option("--dry-run", is_flag=True, help="republish: tell what would be sent, and send nothing."),
        option("--force", is_flag=True, help="republish: also send what would be refused again."),
        JSON_OPTION,
    ]

    async def run(
        self,
        action: str,
        *,
        reason: str | None,
        field: str | None,
        topic: str | None,
        market: str | None,
        since: str | None,
        until: str | None,
        counts: bool,
        count: int,
        dry_run: bool,
        force: bool,
        as_json: bool,
    ) -> int | None:
        settings = self.settings
        for name, given, of in (
            ("--counts", counts, LIST),
            ("--dry-run", dry_run, REPUBLISH),
            ("--force", force, REPUBLISH),
        ):
            if given and action != of:
                raise InvalidValueError(name, action, f"it with the action {of} alone")
        span = Span.parse(since, until)
        came_from = None if topic is None else settings.topic(find_role(settings, topic)).name
        symbol = None if market is None else find_market(settings, market)

        def wanted(letter: DeadLetter) -> bool:
            return (
                reason in {None, letter.reason}
                and field in {None, letter.field}
                and came_from in {None, letter.topic}
                and symbol in {None, letter.symbol}
                and span.holds(from_rfc3339(letter.refused_at))
            )

        tail = None if action == REPUBLISH else _TAIL
        letters = await newest(settings, TopicRole.DEAD_LETTERS, DeadLetter, tail, wanted)
        as_json = as_json or self.json
        if action == REPUBLISH:
            await self.clock.start(0.0)  # a letter refused as out of the future may be of the past by now
            found = await republish(settings, letters, self.clock.now_ms(), dry_run=dry_run, force=force)
            self._sent(found, dry_run=dry_run, as_json=as_json)
            return None
        # A crash between refusing and committing refuses again: where a record lay is what it is.
        letters = list({(one.topic, one.partition, one.offset): one for one in letters}.values())
        if counts:
            self._counted(letters, as_json=as_json)
        else:
            self._listed(letters[-count:], as_json=as_json)
            if len(letters) > count and not as_json:
                self.stdout.write(f"the newest {count} of {len(letters)}; all of them: -n {len(letters)}\n")
        return None

    def _counted(self, letters: list[DeadLetter], *, as_json: bool) -> None:
        rows = Counter((one.reason, one.field) for one in letters).most_common()
        if as_json:
            self.lines([{"reason": why, "field": field, "count": number} for (why, field), number in rows])
        else:
            self.table(("reason", "field", "count"), [(why, field, number) for (why, field), number in rows])

    def _listed(self, letters: list[DeadLetter], *, as_json: bool) -> None:
        if as_json:
            self.lines(letters)
            return
        self.table(
            ("refused at", "reason", "field", "value", "expected", "where"),
            [
                (
                    one.refused_at,
                    one.reason,
                    one.field,
                    one.value[:60],
                    one.expected,
                    f"{one.topic}-{one.partition}@{one.offset}",
                )
                for one in letters
            ],
            wraps=("value", "expected"),
        )

    def _sent(self, found: dict[tuple[str, str], Counts], *, dry_run: bool, as_json: bool) -> None:
        if as_json:
            self.lines(
                [
                    {
                        "reason": why,
                        "field": field,
                        "would_send" if dry_run else "sent": one.sent,
                        "still_bad": one.still_bad,
                        "already_sent": one.already_sent,
                        "not_restorable": one.not_restorable,
                        "why_not": one.why_not,
                    }
                    for (why, field), one in found.items()
                ]
            )
            return
        if not found:
            self.stdout.write("no letter was chosen\n")
            return
        self.table(
            (
                "reason",
                "field",
                "would be sent" if dry_run else "sent",
                "still bad",
                "already sent",
                "not restorable",
                "why not",
            ),
            [
                (why, field, one.sent, one.still_bad, one.already_sent, one.not_restorable, one.why_not)
                for (why, field), one in found.items()
            ],
            wraps=("why not",),
        )
