/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "../../../../cbuild/include/pj/compat/m_auto.h"
