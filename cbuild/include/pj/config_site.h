/* SPDX-License-Identifier: GPL-3.0-or-later */
/* pjlib looks for this file here; what it says is in cbuild/config_site.h. */
#include "../../config_site.h"
