/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 * Requests that nobody took: anybody can send them, so what one costs has a
 * bound.  They are answered without state, as RFC 3261 says, or dropped.
 */
#include "internal.h"

/* Bytes that an answer may be longer than its request: who forges a source
   address must not gain by it. */
#define ANSWER_GROWTH 256

/* Answers that wait to be sent, over one connection or all datagrams.  A peer
   that asks and does not read what it gets would fill the memory. */
#define ANSWERS_UNSENT 16

static unsigned datagrams_unsent;

static unsigned *unsent_of(pjsip_transport *tp)
{
    connection *c;

    if (!(tp->flag & PJSIP_TRANSPORT_RELIABLE))
        return &datagrams_unsent;
    c = connection_of(tp);
    return c ? &c->answers_unsent : NULL;
}

static void on_sent(pjsip_send_state *state, pj_ssize_t sent, pj_bool_t *more)
{
    unsigned *unsent = unsent_of(state->token);

    PJ_UNUSED_ARG(sent);
    PJ_UNUSED_ARG(more);
    if (unsent && *unsent)
        --*unsent;
}

/* 8.2.1: the method, before anything else; 9.2: a CANCEL of nothing; 12.2.2:
   inside a dialog we do not know; 11.2: OPTIONS, after 8.2.2. */
static int judge(pjsip_rx_data *rdata, pjsip_hdr *headers)
{
    pj_pool_t *pool = rdata->tp_info.pool;
    pjsip_msg *msg = rdata->msg_info.msg;
    pjsip_method *method = &msg->line.req.method;
    pjsip_uri *uri = pjsip_uri_get_uri(msg->line.req.uri);
    pjsip_allow_hdr *allow;
    int options = method->id == PJSIP_OPTIONS_METHOD;

    if (!options &&
        (method->id == PJSIP_CANCEL_METHOD || rdata->msg_info.to->tag.slen))
        return PJSIP_SC_CALL_TSX_DOES_NOT_EXIST;
    if (options && !PJSIP_URI_SCHEME_IS_SIP(uri) &&
        !PJSIP_URI_SCHEME_IS_SIPS(uri))
        return PJSIP_SC_UNSUPPORTED_URI_SCHEME;
    if (options && rdata->msg_info.require && rdata->msg_info.require->count) {
        pjsip_unsupported_hdr *none = pjsip_unsupported_hdr_create(pool);

        none->count = rdata->msg_info.require->count;
        pj_memcpy(none->values, rdata->msg_info.require->values,
                  none->count * sizeof *none->values);
        pj_list_push_back(headers, none);
        return PJSIP_SC_BAD_EXTENSION;
    }
    allow = pjsip_allow_hdr_create(pool);
    allow->values[allow->count++] = pj_str("OPTIONS");
    pj_list_push_back(headers, allow);
    return options ? PJSIP_SC_OK : PJSIP_SC_METHOD_NOT_ALLOWED;
}

static pj_status_t make(pjsip_rx_data *rdata, pjsip_tx_data **answer)
{
    pjsip_hdr headers;
    pj_status_t status;
    int code;

    pj_list_init(&headers);
    code = judge(rdata, &headers);
    status = pjsip_endpt_create_response(pjpy.endpoint, rdata, code, NULL,
                                         answer);
    if (status != PJ_SUCCESS)
        return status;
    while (!pj_list_empty(&headers)) {
        pjsip_hdr *header = headers.next;

        pj_list_erase(header);
        pjsip_msg_add_hdr((*answer)->msg,
                          pjsip_hdr_clone((*answer)->pool, header));
    }
    status = pjsip_tx_data_encode(*answer);
    if (status == PJ_SUCCESS && (*answer)->buf.cur - (*answer)->buf.start >
                                    rdata->msg_info.len + ANSWER_GROWTH)
        status = PJSIP_EMSGTOOLONG;
    if (status != PJ_SUCCESS)
        pjsip_tx_data_dec_ref(*answer);
    return status;
}

pj_bool_t answer_request(pjsip_rx_data *rdata)
{
    pjsip_transport *tp = rdata->tp_info.transport;
    unsigned *unsent = unsent_of(tp);
    pjsip_response_addr to;
    pjsip_tx_data *answer;

    /* ACK never gets an answer.  "maddr" (18.2.2) would have us look up names
       and send to third parties for anybody: it is meant for multicast. */
    if (rdata->msg_info.msg->line.req.method.id == PJSIP_ACK_METHOD ||
        rdata->msg_info.via->maddr_param.slen || !unsent ||
        *unsent >= ANSWERS_UNSENT || make(rdata, &answer) != PJ_SUCCESS)
        return PJ_TRUE;
    ++*unsent;
    if (pjsip_get_response_addr(answer->pool, rdata, &to) != PJ_SUCCESS ||
        pjsip_endpt_send_response(pjpy.endpoint, &to, answer, tp, on_sent) !=
            PJ_SUCCESS) {
        --*unsent;
        pjsip_tx_data_dec_ref(answer);
    }
    return PJ_TRUE;
}

void answer_open(void)
{
    datagrams_unsent = 0;
}
