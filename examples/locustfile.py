# SPDX-License-Identifier: GPL-3.0-or-later
"""Phones that register, refresh and now and then restart, for Locust: see docs/locust.md.

    PJSIP_PY_PASSWORD=secret locust -f examples/locustfile.py --host sip:127.0.0.1:5060 \
        --sip-users 'sip:user{n}@example.com' --headless -u 100 -r 20 -t 1m --processes 2
"""

from __future__ import annotations

from locust import constant_pacing, task

from pjsip_py.locust import SipUser


class Phone(SipUser):
    expires = 60
    wait_time = constant_pacing(1)

    def on_start(self) -> None:
        self.register()

    @task(10)
    def refresh_in_time(self) -> None:
        self.refresh()

    @task
    def restart(self) -> None:
        self.unregister()
        self.register()
