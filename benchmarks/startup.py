# SPDX-License-Identifier: GPL-3.0-or-later
"""How long a program waits: import, open to first REGISTER, close.  One process, one sample.

The import comes first and nearly alone, so that it pays for every module it needs itself.
"""

import time

before = time.perf_counter()
import pjsip_py as pjsip  # noqa: E402

import_seconds = time.perf_counter() - before

import argparse  # noqa: E402
import json  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--registrar", required=True)
    parser.add_argument("--password", default="bulk-password")
    parser.add_argument("--count", type=int, default=1, help="accounts")
    parser.add_argument(
        "--silent", action="store_true", help="the registrar does not answer: wait for nothing"
    )
    options = parser.parse_args()

    opening = time.monotonic()
    endpoint = pjsip.Endpoint().open()
    opened = time.monotonic()
    operations = [
        endpoint.add_account(
            f"sip:bulk{number}@example.com",
            registrar=options.registrar,
            credentials=pjsip.Credentials(f"bulk{number}", options.password),
        ).register()
        for number in range(options.count)
    ]
    if not options.silent:
        for operation in operations:
            operation.result(30)
    else:
        input()  # the other side has the REGISTER
    closing = time.perf_counter()
    endpoint.close(network=not options.silent)
    closed = time.perf_counter()
    print(
        json.dumps(
            {
                "import": import_seconds,
                "opening": opening,  # time.monotonic(), the same clock in every process
                "open": opened - opening,
                "close": closed - closing,
            }
        )
    )


if __name__ == "__main__":
    main()
