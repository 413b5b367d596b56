"""A server that the Snowflake sink's tests take for Snowflake: fakesnow, and what it lacks for them.

fakesnow keeps the data and runs the SQL, in DuckDB. Added here, each as Snowflake's manual has it:
- who may log in: one user, by password or by a token that the private key signed; fakesnow lets everybody in;
- answers in JSON, which the sink's client reads; fakesnow's are in Arrow;
- blocks of Snowflake Scripting (scripting.py);
- locks: an UPDATE, a MERGE or a transaction waits, up to LOCK_TIMEOUT, until the one before it has ended; DuckDB fails
  at once. So does a CREATE here, since DuckDB makes a table for one at a time;
- MERGE inside a transaction; NOT NULL as an error with Snowflake's code; lengths of BINARY, which are not enforced;
- sessions that end: POST /test/expire-sessions?schema=NAME.

Usage: server.py DIRECTORY PORT TLS_PORT USER PASSWORD

DIRECTORY has certificate.pem and key.pem, for TLS. The user's private key is written there: private_key.pem and,
encrypted with the password, encrypted_private_key.pem.
"""

import asyncio
import base64
import contextlib
import hashlib
import json
import re
import sys
import uuid
from decimal import Decimal
from pathlib import Path

import duckdb
import fakesnow.server
import jwt
import pyarrow
import sqlglot
import uvicorn
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from fakesnow.cursor import FakeSnowflakeCursor, transforms
from snowflake.connector.errors import ProgrammingError
from sqlglot import exp
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

import scripting

DIRECTORY, PORT, TLS_PORT, USER, PASSWORD = sys.argv[1:]
KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)

# What a session may have set, by its token.
lock_timeouts: dict[str, float] = {}
expired: set[str] = set()


class Locks:
    """One transaction writes to a schema at a time."""

    def __init__(self):
        self.owner = None
        self.changed = asyncio.Condition()

    async def take(self, token: str):
        async with self.changed:
            free = self.changed.wait_for(lambda: self.owner in (None, token))
            try:
                await asyncio.wait_for(free, lock_timeouts[token])
            except TimeoutError:
                return False
            self.owner = token
            return True

    async def release(self, token: str):
        async with self.changed:
            if self.owner == token:
                self.owner = None
                self.changed.notify_all()


# By schema: no test uses another's.
all_locks: dict[str, Locks] = {}


# --- fakesnow's cursor ------------------------------------------------------------------------------------

execute_as_fakesnow = FakeSnowflakeCursor._execute


def execute(cursor, statement, params=None):
    """MERGE by DuckDB's own; a missing table, a NULL where none may be, a number too large, as Snowflake reports them."""
    try:
        if isinstance(statement, exp.Merge):
            merged = cursor._duck_conn.execute(statement.sql(dialect="duckdb"), params).fetchone()
            statement, params = sqlglot.parse_one(f'SELECT {merged[0]} AS "number of rows inserted"'), None
        execute_as_fakesnow(cursor, statement, params)
    except duckdb.ConstraintException as error:
        if "NOT NULL" not in str(error):
            raise
        message = "NULL result in a non-nullable column"
        raise ProgrammingError(msg=message, errno=100072, sqlstate="22000") from error
    except duckdb.ConversionException as error:
        message = "Numeric value is not recognized"
        raise ProgrammingError(msg=message, errno=100038, sqlstate="22018") from error
    except duckdb.CatalogException as error:
        raise ProgrammingError(msg=str(error).splitlines()[0], errno=2003, sqlstate="42S02") from error


FakeSnowflakeCursor._execute = execute
transforms.merge = lambda statement: [statement]


# --- The protocol -----------------------------------------------------------------------------------------


async def ask(handler, request: Request, body: dict) -> dict:
    """What fakesnow answers to a request with another body."""
    raw = json.dumps(body).encode()

    async def receive():
        return {"type": "http.request", "body": raw, "more_body": False}

    response = await handler(Request(request.scope, receive))
    return json.loads(response.body)


def failed(code: str, message: str) -> dict:
    return {"data": {"queryId": str(uuid.uuid4())}, "code": code, "message": message, "success": False}


def is_let_in(data: dict) -> bool:
    if data["LOGIN_NAME"].upper() != USER.upper():
        return False
    if data.get("AUTHENTICATOR") != "SNOWFLAKE_JWT":
        return data.get("PASSWORD") == PASSWORD
    der = KEY.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    name = f"{data['ACCOUNT_NAME'].split('.')[0].upper()}.{USER.upper()}"
    issuer = f"{name}.SHA256:{base64.b64encode(hashlib.sha256(der).digest()).decode()}"
    try:
        claims = jwt.decode(data["TOKEN"], KEY.public_key(), algorithms=["RS256"], issuer=issuer)
    except jwt.InvalidTokenError:
        return False
    return claims["sub"] == name and claims["exp"] - claims["iat"] <= 3600


async def login(request: Request) -> JSONResponse:
    body = json.loads(await request.body())
    if not is_let_in(body["data"]):
        return JSONResponse(failed("390100", "Incorrect username or password was specified."))
    parameters = body["data"].setdefault("SESSION_PARAMETERS", {})
    answer = await ask(fakesnow.server.login_request, request, body)
    lock_timeouts[answer["data"]["token"]] = float(parameters.get("LOCK_TIMEOUT", 43_200))
    return JSONResponse(answer)


async def query(request: Request) -> JSONResponse:
    token = fakesnow.server.to_token(request)
    if token in expired:
        return JSONResponse(failed("390112", "Your session has expired. Please login again."))
    body = json.loads(await request.body())
    sql = body["sqlText"]
    if not scripting.is_block(sql):
        return JSONResponse(await one_statement(request, token, body))

    async def run(statement: str) -> int:
        answer = await one_statement(request, token, {"sqlText": statement})
        if not answer["success"]:
            raise scripting.Raised(answer["code"], "STATEMENT_ERROR", answer["message"])
        is_change = statement.split()[0] in {"UPDATE", "MERGE", "INSERT", "DELETE"}
        return int(answer["data"]["rowset"][0][0]) if is_change else 0

    try:
        await scripting.run(sql, run)
    except scripting.Raised as raised:
        return JSONResponse(failed(raised.code, str(raised)))
    except scripting.NotUnderstood as error:
        return JSONResponse(failed("001003", f"the tests' Snowflake Scripting does not understand {error}"))
    column = {"name": "anonymous block", "type": "text", "nullable": True, "length": 16_777_216}
    data = {"rowtype": [column], "rowset": [[None]], "total": 1, "returned": 1, "queryResultFormat": "json"}
    return JSONResponse({"data": {"queryId": str(uuid.uuid4()), **data}, "success": True})


async def one_statement(request: Request, token: str, body: dict) -> dict:
    sql = body["sqlText"] = re.sub(r"\bBINARY\(\d+\)", "BINARY", body["sqlText"])
    verb = sql.split()[0].upper()
    locks = all_locks.setdefault(fakesnow.server.sessions[token].schema, Locks())
    in_transaction = locks.owner == token
    if verb in {"BEGIN", "CREATE", "UPDATE", "MERGE"} and not await locks.take(token):
        return failed("000625", "the lock was not released in time")
    try:
        answer = await ask(fakesnow.server.query_request, request, body)
    finally:
        if verb in {"COMMIT", "ROLLBACK"} or (verb != "BEGIN" and not in_transaction):
            await locks.release(token)
    if answer["data"] is None:
        answer["data"] = {}
    answer["data"].setdefault("queryId", str(uuid.uuid4()))
    with contextlib.suppress(KeyError):
        encoded = answer["data"].pop("rowsetBase64")
        answer["data"] |= {"queryResultFormat": "json", "rowset": rowset(encoded)}
    return answer


def rowset(encoded: str) -> list[list[str | None]]:
    """An answer in Arrow as JSON has it: all values are texts, bytes are in hexadecimal."""
    if not encoded:
        return []
    table = pyarrow.ipc.open_stream(base64.b64decode(encoded)).read_all()
    columns = [[as_text(value) for value in column.to_pylist()] for column in table.columns]
    return [list(row) for row in zip(*columns, strict=True)]


def as_text(value) -> str | None:
    if isinstance(value, bytes):
        return value.hex().upper()
    if isinstance(value, dict) and value.keys() == {"epoch", "fraction"}:
        if value["epoch"] is None:
            return None
        return f"{Decimal(value['epoch']) + Decimal(value['fraction']).scaleb(-9):.9f}"
    if isinstance(value, dict | bool | float):
        raise TypeError(f"the tests read no {type(value)} from Snowflake; cast it in the SQL")
    return value if value is None else str(value)


async def expire_sessions(request: Request) -> JSONResponse:
    schema = request.query_params["schema"]
    expired.update(token for token, session in fakesnow.server.sessions.items() if session.schema == schema)
    return JSONResponse({"success": True})


app = Starlette(
    routes=[
        Route("/session/v1/login-request", login, methods=["POST"]),
        Route("/queries/v1/query-request", query, methods=["POST"]),
        Route("/test/expire-sessions", expire_sessions, methods=["POST"]),
    ]
)


def write_private_key():
    pem, pkcs8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    encrypted = serialization.BestAvailableEncryption(PASSWORD.encode())
    for name, encryption in ("", serialization.NoEncryption()), ("encrypted_", encrypted):
        (Path(DIRECTORY) / f"{name}private_key.pem").write_bytes(KEY.private_bytes(pem, pkcs8, encryption))


async def serve():
    certificate = {"ssl_certfile": f"{DIRECTORY}/certificate.pem", "ssl_keyfile": f"{DIRECTORY}/key.pem"}
    configs = [
        uvicorn.Config(app, host="127.0.0.1", port=int(port), log_level="warning", access_log=False, **tls)
        for port, tls in ((PORT, {}), (TLS_PORT, certificate))
    ]
    await asyncio.gather(*(uvicorn.Server(config).serve() for config in configs))


if __name__ == "__main__":
    write_private_key()
    asyncio.run(serve())
