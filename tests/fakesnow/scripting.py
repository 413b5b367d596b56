"""Snowflake Scripting, as much of it as the sink's blocks use: fakesnow has none.

A block is `EXECUTE IMMEDIATE $$ DECLARE … BEGIN … EXCEPTION … END; $$`. All else is an error, so that a block that
says more than this understands fails the tests.
"""

import re

BLOCK = re.compile(
    r"EXECUTE IMMEDIATE \$\$\s*(?:DECLARE\b(?P<declared>.*?))?\bBEGIN\b(?P<body>.*?)"
    r"\bEXCEPTION\s+WHEN OTHER THEN\b(?P<handler>.*?)\bEND;\s*\$\$\s*\Z",
    re.DOTALL,
)
DECLARED = re.compile(r"(?P<name>\w+) EXCEPTION \((?P<code>-2\d{4}), '(?P<message>[^']*)'\)\Z")
CHECK = re.compile(r"IF \(SQLROWCOUNT (?P<comparison>=|<>) (?P<count>\d+)\) THEN\s+RAISE (?P<name>\w+)\Z")


class Raised(Exception):
    """A failure that no handler stops: `kind` is `STATEMENT_ERROR`, or the exception's name."""

    def __init__(self, code: str, kind: str, message: str):
        super().__init__(f"Uncaught exception of type '{kind}' on line 1 at position 0 : {message}")
        self.code = code


class NotUnderstood(Exception):
    """The block has something that is not modelled here."""


def is_block(sql: str) -> bool:
    return sql.lstrip().upper().startswith("EXECUTE IMMEDIATE")


async def run(sql: str, execute) -> None:
    """Runs a block. `execute(statement)` gives the number of rows touched, or raises `Raised`."""
    block = BLOCK.match(sql.strip())
    if not block:
        raise NotUnderstood("not a block of the known form")
    declared = {}
    for line in statements(block["declared"] or ""):
        found = DECLARED.match(line)
        if not found:
            raise NotUnderstood(f"a declaration: {line}")
        declared[found["name"]] = found
    handler = statements(block["handler"])
    if handler[-1:] != ["RAISE"]:
        raise NotUnderstood("a handler that does not raise again")
    try:
        await run_body(statements(block["body"]), declared, execute)
    except Raised:
        for statement in handler[:-1]:
            await execute(statement)
        raise


async def run_body(body: list[str], declared: dict, execute) -> None:
    count, is_conditional = 0, False
    for statement in body:
        if is_conditional:
            if statement != "END IF":
                raise NotUnderstood(f"a second statement after IF: {statement}")
            is_conditional = False
        elif statement.startswith("IF "):
            check = CHECK.match(statement)
            if not check or check["name"] not in declared:
                raise NotUnderstood(f"a condition: {statement}")
            is_conditional = True
            if (count == int(check["count"])) == (check["comparison"] == "="):
                raised = declared[check["name"]]
                raise Raised(raised["code"], raised["name"].upper(), raised["message"])
        elif statement.split()[0] in {"BEGIN", "UPDATE", "MERGE", "INSERT", "DELETE", "COMMIT"}:
            count = await execute(statement)
        else:
            raise NotUnderstood(f"a statement: {statement}")


def statements(text: str) -> list[str]:
    """Cut at semicolons outside of strings, which double a quote or escape it."""
    parts = re.findall(r"(?:'(?:[^'\\]|\\.|'')*'|[^';])+", text, re.DOTALL)
    return [part.strip() for part in parts if part.strip()]
