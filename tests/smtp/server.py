"""An SMTP server that keeps what it is sent: aiosmtpd, with STARTTLS and a log-in before anything else.

Each message is appended to DIRECTORY/messages as a line of JSON. To `later@…` it says no for now, the first time; to
`never@…` for good.

Usage: server.py DIRECTORY PORT USER PASSWORD

DIRECTORY has certificate.pem and key.pem.
"""

import asyncio
import email.parser
import email.policy
import json
import ssl
import sys
from pathlib import Path

from aiosmtpd.smtp import SMTP, AuthResult, LoginPassword

directory, port, user, password = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]
put_off = set()


class Handler:
    async def handle_RCPT(self, server, session, envelope, address, options):
        if address.startswith("never@"):
            return "550 5.1.1 hunter2: no such user"
        if address.startswith("later@") and address not in put_off:
            put_off.add(address)
            return "451 4.7.1 hunter2: try again"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server, session, envelope):
        message = email.parser.BytesParser(policy=email.policy.default).parsebytes(envelope.content)
        kept = {
            "to": envelope.rcpt_tos,
            "from": envelope.mail_from,
            "subject": message["subject"],
            "id": message["message-id"],
            "text": message.get_content(),
        }
        with (directory / "messages").open("a") as messages:
            messages.write(json.dumps(kept) + "\n")
        return "250 OK"


def authenticate(server, session, envelope, mechanism, data):
    known = isinstance(data, LoginPassword) and (data.login, data.password) == (user.encode(), password.encode())
    return AuthResult(success=known)


def session():
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(directory / "certificate.pem", directory / "key.pem")
    return SMTP(
        Handler(),
        hostname="localhost",
        tls_context=context,
        require_starttls=True,
        authenticator=authenticate,
        auth_required=True,
    )


async def main():
    server = await asyncio.get_running_loop().create_server(session, "127.0.0.1", port)
    await server.serve_forever()


asyncio.run(main())
