"""The command `dead-letters`: list refused records, count them by reason, or republish them after a fix."""

from collections import Counter

import click
from faust.cli import argument, option

from marketdata.arguments import find_market
from marketdata.errors import ArgumentError
from marketdata.records import DeadLetter
from marketdata.times import from_rfc3339
from marketdata.topics import TopicRole
from marketdata.vocabulary import Reason
from streams.commands.arguments import COUNT, FROM_OPTION, TO_OPTION, Span, find_role, newest
from streams.commands.command import JSON_OPTION, StreamsCommand
from streams.commands.republish import Counts, republish

_TAIL = 20_000
LIST, REPUBLISH = "list", "republish"


class dead_letters(StreamsCommand):  # noqa: N801  Faust derives the command name
    """List refused records (the default), or republish them after a fix.

    `republish` sends the original key and bytes to the topic they came from: of the selected dead letters those that
    would be accepted now, each at most once.
    """

    options = [  # noqa: RUF012  Faust's declaration
        argument("action", type=click.Choice([LIST, REPUBLISH]), default=LIST),
        option(
            "--reason",
            type=click.Choice([one.value for one in Reason]),
            metavar="CODE",
            help="Select this reason code.",
        ),
        option("--field", help="Select refusals of this field."),
        option("--topic", help="Select records of this topic."),
        option("--market", help="Select records with this market's key."),
        FROM_OPTION,
        TO_OPTION,
        option("--counts", is_flag=True, help="list: count by reason instead of listing."),
        option("-n", "--count", type=COUNT, default=20, show_default=True, help="list: maximum number of records."),
        option("--dry-run", is_flag=True, help="republish: report what would be sent, without sending."),
        option("--force", is_flag=True, help="republish: also send records that would be refused again."),
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
                raise ArgumentError(name, action, f"the action {of} with this option")
        span = Span.parse(since, until)
        source = None if topic is None else settings.topic(find_role(settings, topic)).name
        symbol = None if market is None else find_market(market, settings.markets)

        def wanted(one: DeadLetter) -> bool:
            return (
                reason in {None, one.reason}
                and field in {None, one.field}
                and source in {None, one.topic}
                and symbol in {None, one.symbol}
                and span.holds(from_rfc3339(one.refused_at))
            )

        tail = None if action == REPUBLISH else _TAIL
        dead_letters = await newest(settings, TopicRole.DEAD_LETTERS, DeadLetter, tail, wanted)
        as_json = as_json or self.json
        if action == REPUBLISH:
            await self.clock.start(0.0)  # a tick refused as ahead of the clock may be acceptable now
            counts_by_reason = await republish(
                settings, dead_letters, self.clock.now_ms(), dry_run=dry_run, force=force
            )
            self._show_sent(counts_by_reason, dry_run=dry_run, as_json=as_json)
            return None
        # A crash between refusal and commit refuses a record again: topic, partition and offset identify it.
        dead_letters = list({(one.topic, one.partition, one.offset): one for one in dead_letters}.values())
        if counts:
            self._show_counts(dead_letters, as_json=as_json)
        else:
            self._show_list(dead_letters[-count:], as_json=as_json)
            if len(dead_letters) > count and not as_json:
                self.line(f"newest {count} of {len(dead_letters)}; show all: -n {len(dead_letters)}")
        return None

    def _show_counts(self, dead_letters: list[DeadLetter], *, as_json: bool) -> None:
        rows = Counter((one.reason, one.field) for one in dead_letters).most_common()
        if as_json:
            self.lines([{"reason": why, "field": field, "count": number} for (why, field), number in rows])
        else:
            self.table(("reason", "field", "count"), [(why, field, number) for (why, field), number in rows])

    def _show_list(self, dead_letters: list[DeadLetter], *, as_json: bool) -> None:
        if as_json:
            self.lines(dead_letters)
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
                for one in dead_letters
            ],
            wraps=("value", "expected"),
        )

    def _show_sent(self, counts: dict[tuple[str, str], Counts], *, dry_run: bool, as_json: bool) -> None:
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
                    for (why, field), one in counts.items()
                ]
            )
            return
        if not counts:
            self.line("no dead letters selected")
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
                for (why, field), one in counts.items()
            ],
            wraps=("why not",),
        )
