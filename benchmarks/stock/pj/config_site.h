/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Empty, as a fresh checkout of pjproject wants it: every switch has upstream's
 * default. */
