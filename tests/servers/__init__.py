# SPDX-License-Identifier: GPL-3.0-or-later
"""Real SIP servers for the tests: Kamailio and SIPp on free loopback ports."""
