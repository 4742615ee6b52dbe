/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 * The answer to challenges.  PJSIP computes digests, counts nonces and sends
 * the request again; what it answers is decided here: of each realm the
 * strongest algorithm that a credential allows, and that alone (RFC 7616,
 * 3.7; RFC 8760, 2.4), so the others leave the response before PJSIP sees it.
 * What no credential answers is asked of Python, if the client wants that.
 * Bearer tokens (RFC 8898), which PJSIP does not know, are added here.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "internal.h"

#define MAX_REALMS   8
#define MAX_REQUESTS 16 /* for one outcome: challenges need not end */
#define MAX_CACHED   8000 /* bytes of one realm's memory */

/* -------------------------------------------------------- credentials */

/* PJSIP's session reads the credentials where they lie: one block of ours,
   which is overwritten when they change, as PJSIP's pools never are before
   the registration ends.  The digest credentials come first; behind them
   stand the Bearer tokens, of which PJSIP is told nothing. */
struct secrets {
    size_t size;
    unsigned digests, count;
    pjsip_cred_info info[];
};

#define ANY_TRANSPORT 1 /* data_type of a token that needs no TLS */

static int is_bearer(const pjsip_cred_info *info)
{
    return pj_strcmp2(&info->scheme, "Bearer") == 0;
}

static char *keep_str(char *at, pj_str_t *out, const pj_str_t *text)
{
    memcpy(at, text->ptr, (size_t)text->slen);
    *out = (pj_str_t){ at, text->slen };
    return at + text->slen;
}

static secrets *secrets_new(const pjsip_cred_info *info, unsigned count)
{
    size_t size = sizeof(secrets) + count * sizeof *info;
    secrets *s;
    char *at;

    for (unsigned i = 0; i < count; i++)
        size += (size_t)(info[i].realm.slen + info[i].username.slen +
                         info[i].data.slen);
    s = calloc(1, size);
    if (!s)
        return NULL;
    s->size = size;
    at = (char *)&s->info[count];
    for (int bearer = 0; bearer < 2; bearer++) {
        for (unsigned i = 0; i < count; i++) {
            pjsip_cred_info *own = &s->info[s->count];

            if (is_bearer(&info[i]) != bearer)
                continue;
            *own = info[i];
            at = keep_str(at, &own->realm, &info[i].realm);
            at = keep_str(at, &own->username, &info[i].username);
            at = keep_str(at, &own->data, &info[i].data);
            s->count++;
            s->digests += !bearer;
        }
    }
    return s;
}

static void secrets_free(secrets *s)
{
    if (!s)
        return;
    wipe(s, s->size);
    free(s);
}

/* realm, user name, secret, kind, minimum: see pjpy_client_create(). */
static pj_status_t read_credential(pjsip_cred_info *info, const char **text)
{
    pj_str_t kind, least;
    const pjsip_auth_algorithm *algorithm;

    pj_bzero(info, sizeof *info);
    info->realm = client_take(text);
    info->username = client_take(text);
    info->data = client_take(text);
    kind = client_take(text);
    least = client_take(text);
    info->scheme = pj_str("Digest");
    if (pj_strcmp2(&kind, "Bearer") == 0 || pj_strcmp2(&kind, "bearer") == 0) {
        info->scheme = pj_str("Bearer");
        info->data_type = *kind.ptr == 'b' ? ANY_TRANSPORT : 0;
        return PJ_SUCCESS;
    }
    if (kind.slen)
        info->data_type = PJSIP_CRED_DATA_DIGEST;
    else
        kind = least;
    if (!kind.slen)
        return PJ_SUCCESS;
    /* Of an HA1 its own; of a password, where PJSIP has no use for the
       field, the weakest that is allowed. */
    algorithm = pjsip_auth_get_algorithm_by_iana_name(&kind);
    if (!algorithm)
        return PJSIP_EINVALIDALGORITHM;
    info->algorithm_type = algorithm->algorithm_type;
    return PJ_SUCCESS;
}

static void use_secrets(client *c, secrets *s)
{
    pjsip_auth_clt_sess *session = pjsip_regc_get_auth_sess(c->regc);

    for (int proxy = 0; proxy < 2; proxy++) {
        const pjsip_cred_info *old = c->proof[proxy], *token = NULL;

        for (unsigned i = s ? s->digests : 0; old && s && i < s->count; i++)
            if (pj_stricmp(&s->info[i].realm, &old->realm) == 0)
                token = &s->info[i];
        c->proof[proxy] = token;
    }
    session->cred_cnt = s ? s->digests : 0;
    session->cred_info = s ? s->info : NULL;
    secrets_free(c->secrets);
    c->secrets = s;
}

/* merge: beside those for other realms that are there already. */
static pj_status_t read_secrets(const client *c, const char **text,
                                uint32_t count, int merge, secrets **s)
{
    pjsip_cred_info info[MAX_REALMS];
    pj_status_t status = PJ_SUCCESS;
    unsigned given = count;

    *s = NULL;
    if (count > PJ_ARRAY_SIZE(info))
        return PJ_ETOOMANY;
    for (uint32_t i = 0; i < count && status == PJ_SUCCESS; i++)
        status = read_credential(&info[i], text);
    for (unsigned i = 0; merge && c->secrets && i < c->secrets->count; i++) {
        const pjsip_cred_info *old = &c->secrets->info[i];
        unsigned j = 0;

        while (j < given && pj_stricmp(&info[j].realm, &old->realm) != 0)
            j++;
        if (j == given && count < PJ_ARRAY_SIZE(info))
            info[count++] = *old;
    }
    if (status == PJ_SUCCESS && count) {
        *s = secrets_new(info, count);
        if (!*s)
            status = PJ_ENOMEM;
    }
    wipe(info, sizeof info);
    return status;
}

static void forget_realm(pjsip_cached_auth *auth)
{
    pj_list_erase(auth);
    pjsip_endpt_release_pool(pjpy.endpoint, auth->pool);
}

static void forget_realms(client *c)
{
    pjsip_auth_clt_sess *session = pjsip_regc_get_auth_sess(c->regc);

    while (!pj_list_empty(&session->cached_auth))
        forget_realm(session->cached_auth.next);
    c->proof[0] = c->proof[1] = NULL;
}

/* What was proved with the old ones, nonces included, is not proved with
   these.  like: a client that may have been given some already. */
pj_status_t auth_set_credentials(client *c, const char **text, uint32_t count,
                                 uint32_t asks, const client *like)
{
    static const pjsip_auth_clt_async_setting watch = { auth_on_challenge,
                                                        NULL };
    pjsip_auth_clt_sess *session = pjsip_regc_get_auth_sess(c->regc);
    secrets *s;
    pj_status_t status;

    session->async_opt = (pjsip_auth_clt_async_setting *)&watch;
    forget_realms(c);
    c->asks = asks != 0;
    if (asks && like && like->secrets) {
        use_secrets(c, secrets_new(like->secrets->info, like->secrets->count));
        return PJ_SUCCESS;
    }
    status = read_secrets(c, text, count, 0, &s);
    if (status == PJ_SUCCESS)
        use_secrets(c, s);
    return status;
}

/* Whether it is for this realm by name; one for any realm is remembered. */
static int is_for(const pjsip_cred_info *info, const pj_str_t *realm,
                  const pjsip_cred_info **any)
{
    if (pj_stricmp(&info->realm, realm) == 0)
        return 1;
    if (pj_strcmp2(&info->realm, "*") == 0)
        *any = info;
    return 0;
}

/* Whoever reads a token can use it. */
static int may_show(const pjsip_cred_info *token, const pjsip_transport *tp)
{
    return token->data_type == ANY_TRANSPORT ||
           (tp->flag & PJSIP_TRANSPORT_SECURE);
}

static const pjsip_cred_info *digest_for(const client *c, const pj_str_t *realm,
                                         unsigned algorithm)
{
    const pjsip_cred_info *any = NULL;

    for (unsigned i = 0; c->secrets && i < c->secrets->digests; i++) {
        const pjsip_cred_info *info = &c->secrets->info[i];

        if (info->data_type == PJSIP_CRED_DATA_DIGEST &&
            (unsigned)info->algorithm_type != algorithm)
            continue;
        if (is_for(info, realm, &any))
            return info;
    }
    return any;
}

static const pjsip_cred_info *token_for(const client *c, const pj_str_t *realm,
                                        const pjsip_transport *tp)
{
    const pjsip_cred_info *any = NULL;

    for (unsigned i = c->secrets ? c->secrets->digests : 0;
         c->secrets && i < c->secrets->count; i++) {
        const pjsip_cred_info *info = &c->secrets->info[i];

        if (may_show(info, tp) && is_for(info, realm, &any))
            return info;
    }
    return any;
}

/* --------------------------------------------------------- challenges */

/* A realm, of the registrar or of a proxy before it, that wants a proof. */
typedef struct realm {
    int proxy;
    pj_str_t name;
    unsigned offered; /* a bit for each pjpy_algorithm */
    unsigned usable; /* the strongest that a credential could answer */
    unsigned algorithm; /* the strongest that one does answer */
    pjsip_www_authenticate_hdr *chosen;
    const pjsip_cred_info *with;
    int refused; /* what was proved before */
    pj_status_t why; /* nothing is chosen */
} realm;

/* The nearer to success, the more it says. */
static int weight(pj_status_t why)
{
    switch (why) {
    case PJ_SUCCESS: return 0;
    case PJSIP_EAUTHNOCHAL: return 1;
    case PJSIP_ENOCREDENTIAL: return 3;
    case PJPY_STATUS_DOWNGRADE: return 4;
    default: return 2;
    }
}

static void worsen(pj_status_t *why, pj_status_t other)
{
    if (weight(other) > weight(*why))
        *why = other;
}

/* A character of UTF-8: its length, or 0 if it is none. */
static pj_ssize_t utf8_length(const unsigned char *p, pj_ssize_t left)
{
    pj_ssize_t n = *p < 0x80   ? 1
                   : *p < 0xc2 ? 0
                   : *p < 0xe0 ? 2
                   : *p < 0xf0 ? 3
                   : *p < 0xf5 ? 4
                               : 0;

    if (n > left ||
        (n > 2 && ((*p == 0xe0 && p[1] < 0xa0) || (*p == 0xed && p[1] > 0x9f) ||
                   (*p == 0xf0 && p[1] < 0x90) || (*p == 0xf4 && p[1] > 0x8f))))
        return 0;
    for (pj_ssize_t i = 1; i < n; i++)
        if ((p[i] & 0xc0) != 0x80)
            return 0;
    return n;
}

/* It is sent back, between quotes (RFC 3261, 25.1: quoted-string). */
static int is_clean(const pj_str_t *text)
{
    const unsigned char *p = (const unsigned char *)text->ptr;
    const unsigned char *end = p + text->slen;

    while (p < end) {
        pj_ssize_t n = *p < ' ' || *p == 0x7f ? 0 : utf8_length(p, end - p);

        if (!n)
            return 0;
        p += n;
    }
    return 1;
}

static int offers_auth(const pj_str_t *qop)
{
    pj_ssize_t at = 0, end;

    if (!qop->slen)
        return 1;
    while (at < qop->slen) {
        while (at < qop->slen && strchr(" \t,", qop->ptr[at]))
            at++;
        for (end = at; end < qop->slen && !strchr(" \t,", qop->ptr[end]); end++)
            ;
        if (end - at == 4 && pj_ansi_strnicmp(qop->ptr + at, "auth", 4) == 0)
            return 1;
        at = end;
    }
    return 0;
}

static pj_status_t classify(const pjsip_www_authenticate_hdr *h,
                            unsigned *algorithm)
{
    const pjsip_digest_challenge *d = &h->challenge.digest;
    const pjsip_auth_algorithm *known;

    *algorithm = PJPY_ALG_OTHER;
    if (pj_stricmp2(&h->scheme, "Bearer") == 0) {
        *algorithm = PJPY_ALG_BEARER;
        return is_clean(&d->realm) ? PJ_SUCCESS : PJSIP_EAUTHNOCHAL;
    }
    if (pj_stricmp2(&h->scheme, "Digest") != 0)
        return PJSIP_EINVALIDAUTHSCHEME;
    known = pjsip_auth_get_algorithm_by_iana_name(&d->algorithm);
    if (known && known->algorithm_type <= PJSIP_AUTH_ALGORITHM_SHA512_256)
        *algorithm = known->algorithm_type;
    if (!d->realm.ptr || !d->nonce.slen || !is_clean(&d->realm) ||
        !is_clean(&d->nonce) || !is_clean(&d->opaque) ||
        !is_clean(&d->algorithm))
        return PJSIP_EAUTHNOCHAL;
    if (*algorithm == PJPY_ALG_OTHER ||
        !pjsip_auth_is_algorithm_supported(known->algorithm_type))
        return PJSIP_EINVALIDALGORITHM;
    return offers_auth(&d->qop) ? PJ_SUCCESS : PJSIP_EINVALIDQOP;
}

/* Nobody can tell what realm it is for. */
static int is_unreadable(pj_status_t why)
{
    return why == PJSIP_EAUTHNOCHAL || why == PJSIP_EINVALIDAUTHSCHEME;
}

static int is_challenge(const pjsip_hdr *h)
{
    return h->type == PJSIP_H_WWW_AUTHENTICATE ||
           h->type == PJSIP_H_PROXY_AUTHENTICATE;
}

/* A Bearer challenge need not name a realm: it is another way into the one
   that is asked for beside it. */
static realm *realm_of(realm *realms, int *count,
                       const pjsip_www_authenticate_hdr *h)
{
    const pj_str_t *name = &h->challenge.digest.realm;
    int proxy = h->type == PJSIP_H_PROXY_AUTHENTICATE;

    for (realm *r = realms; r < realms + *count; r++) {
        if (r->proxy != proxy ||
            (name->ptr && r->name.ptr && pj_stricmp(&r->name, name) != 0))
            continue;
        if (!r->name.ptr)
            r->name = *name;
        return r;
    }
    if (*count == MAX_REALMS)
        return NULL;
    realms[*count] = (realm){ .proxy = proxy, .name = *name };
    return &realms[(*count)++];
}

static pj_status_t match(const client *c, realm *r, unsigned algorithm,
                         const pjsip_transport *tp,
                         const pjsip_cred_info **found)
{
    if (algorithm == PJPY_ALG_BEARER) {
        *found = token_for(c, &r->name, tp);
        return *found ? PJ_SUCCESS : PJSIP_ENOCREDENTIAL;
    }
    *found = digest_for(c, &r->name, algorithm);
    if (!*found)
        return PJSIP_ENOCREDENTIAL;
    return algorithm < (unsigned)(*found)->algorithm_type
               ? PJPY_STATUS_DOWNGRADE
               : PJ_SUCCESS;
}

/* The registrar's, a proxy's. */
static const pj_str_t proof_names[] = { { "Authorization", 13 },
                                        { "Proxy-Authorization", 19 } };

static pjsip_hdr *find_token(pjsip_msg *request, int proxy)
{
    pjsip_hdr *h = NULL;

    while ((h = pjsip_msg_find_hdr_by_name(request, &proof_names[proxy],
                                           h ? h->next : NULL)))
        if (h->type == PJSIP_H_OTHER)
            return h;
    return NULL;
}

static pjsip_authorization_hdr *find_digest(pjsip_msg *request, int proxy,
                                            const pj_str_t *name)
{
    pjsip_hdr *h = &request->hdr;

    while ((h = h->next) != &request->hdr) {
        pjsip_authorization_hdr *sent = (pjsip_authorization_hdr *)h;

        if (h->type ==
                (proxy ? PJSIP_H_PROXY_AUTHORIZATION : PJSIP_H_AUTHORIZATION) &&
            (!name || pj_stricmp(&sent->credential.digest.realm, name) == 0))
            return sent;
    }
    return NULL;
}

/* Whether what was proved to this realm has been refused, and not for the age
   of its nonce: as PJSIP's process_auth() sees it. */
static int was_refused(client *c, const realm *r, const pjsip_tx_data *tdata)
{
    const pjsip_auth_clt_sess *session = pjsip_regc_get_auth_sess(c->regc);
    const pjsip_digest_challenge *d = &r->chosen->challenge.digest;
    const pjsip_cached_auth *auth = session->cached_auth.next;
    pjsip_authorization_hdr *sent;

    if (r->algorithm == PJPY_ALG_BEARER)
        return find_token(tdata->msg, r->proxy) != NULL;
    sent = find_digest(tdata->msg, r->proxy, &r->name);
    if (!sent || d->stale)
        return 0;
    if (pj_strcmp(&sent->credential.digest.nonce, &d->nonce) == 0)
        return 1;
    for (; auth != &session->cached_auth; auth = auth->next)
        if (!!auth->is_proxy == r->proxy &&
            pj_stricmp(&auth->realm, &r->name) == 0)
            return auth->stale_cnt > 0; /* the nonce is of this request */
    return 0;
}

/* The realms that the response asks for; 0: nothing that can be read, or
   more than anybody has. */
static int examine(client *c, const pjsip_rx_data *rdata,
                   const pjsip_tx_data *tdata, realm realms[MAX_REALMS])
{
    const pjsip_hdr *list = &rdata->msg_info.msg->hdr, *h = list;
    pj_status_t unread = PJSIP_EAUTHNOCHAL;
    int count = 0;

    c->auth_status = PJ_SUCCESS;
    while ((h = h->next) != list) { /* the realms get their names first */
        pj_status_t why;
        unsigned algorithm;
        realm *r;

        if (!is_challenge(h))
            continue;
        why = classify((void *)h, &algorithm);
        c->offered |= 1u << algorithm;
        if (is_unreadable(why)) {
            worsen(&unread, why);
            continue;
        }
        r = realm_of(realms, &count, (void *)h);
        if (!r) {
            c->auth_status = PJSIP_EAUTHNOCHAL;
            return 0;
        }
        r->offered |= 1u << algorithm;
    }
    while ((h = h->next) != list) {
        const pjsip_cred_info *with = NULL;
        unsigned algorithm;
        pj_status_t why;
        realm *r;

        if (!is_challenge(h))
            continue;
        why = classify((void *)h, &algorithm);
        if (is_unreadable(why))
            continue;
        r = realm_of(realms, &count, (void *)h);
        if (why == PJ_SUCCESS) {
            if (algorithm > r->usable)
                r->usable = algorithm;
            why = match(c, r, algorithm, rdata->tp_info.transport, &with);
        }
        if (why != PJ_SUCCESS) {
            worsen(&r->why, why);
        } else if (algorithm > r->algorithm) {
            r->algorithm = algorithm;
            r->chosen = (void *)h;
            r->with = with;
        }
    }
    for (realm *r = realms; r < realms + count; r++) {
        if (r->chosen)
            r->refused = was_refused(c, r, tdata);
        else
            worsen(&c->auth_status, r->why);
    }
    if (!count)
        c->auth_status = unread;
    return count;
}

static const realm *realm_in(const realm *realms, int count, int proxy,
                             const pj_str_t *name)
{
    for (const realm *r = realms; r < realms + count; r++)
        if (r->proxy == proxy && pj_stricmp(&r->name, name) == 0)
            return r;
    return NULL;
}

/* Leaves PJSIP nothing but what it is to answer. */
static void drop_challenges(pjsip_msg *response, const realm *realms, int count)
{
    pjsip_hdr *h = response->hdr.next;

    while (h != &response->hdr) {
        pjsip_hdr *next = h->next;
        int wanted = !is_challenge(h);

        for (int i = 0; !wanted && i < count; i++)
            wanted = (void *)realms[i].chosen == h &&
                     realms[i].algorithm != PJPY_ALG_BEARER;
        if (!wanted)
            pj_list_erase(h);
        h = next;
    }
}

/* What is remembered of a realm under an algorithm that is not chosen now
   would be proved beside it with every request; and of a new qop PJSIP takes
   no notice. */
static void drop_cached(client *c, const realm *realms, int count)
{
    pjsip_auth_clt_sess *session = pjsip_regc_get_auth_sess(c->regc);
    pjsip_cached_auth *auth = session->cached_auth.next;
    int kept = 0;

    while (auth != &session->cached_auth) {
        pjsip_cached_auth *next = auth->next;
        const realm *r = realm_in(realms, count, auth->is_proxy, &auth->realm);

        if (r &&
            (!r->chosen ||
             r->algorithm != (unsigned)auth->challenge_algorithm_type ||
             (auth->last_chal && !auth->last_chal->challenge.digest.qop.slen !=
                                     !r->chosen->challenge.digest.qop.slen)))
            forget_realm(auth);
        else if (++kept > MAX_REALMS) /* a new realm each time */
            forget_realm(auth);
        auth = next;
    }
}

/* The nonce count of what is proved to others in the same request goes up as
   well: twice the same is a replay (RFC 7616, 3.4). */
static void prove_others_anew(client *c, pjsip_tx_data *tdata,
                              const realm *realms, int count)
{
    pjsip_auth_clt_sess *session = pjsip_regc_get_auth_sess(c->regc);
    pjsip_hdr *list = &tdata->msg->hdr, *h = list->next;
    pjsip_cached_auth aside, *auth;
    unsigned stale[MAX_REALMS + 1], n = 0;
    int others = 0;

    while (h != list) {
        pjsip_hdr *next = h->next;
        pjsip_authorization_hdr *sent = (pjsip_authorization_hdr *)h;
        int proxy = h->type == PJSIP_H_PROXY_AUTHORIZATION;

        if ((proxy || h->type == PJSIP_H_AUTHORIZATION) &&
            !realm_in(realms, count, proxy, &sent->credential.digest.realm)) {
            pj_list_erase(h);
            others = 1;
        }
        h = next;
    }
    if (!others)
        return;
    pj_list_init(&aside);
    for (auth = session->cached_auth.next; auth != &session->cached_auth;) {
        pjsip_cached_auth *next = auth->next;

        if (realm_in(realms, count, auth->is_proxy, &auth->realm)) {
            pj_list_erase(auth);
            pj_list_push_back(&aside, auth);
        } else if (n < PJ_ARRAY_SIZE(stale)) {
            stale[n++] = auth->stale_cnt;
        }
        auth = next;
    }
    pjsip_auth_clt_init_req(session, tdata);
    n = 0;
    for (auth = session->cached_auth.next; auth != &session->cached_auth;
         auth = auth->next)
        if (n < PJ_ARRAY_SIZE(stale)) /* it is still the same request */
            auth->stale_cnt = stale[n++];
    pj_list_merge_last(&session->cached_auth, &aside);
}

/* ----------------------------------------------------- Bearer tokens */

static void add_token(pjsip_tx_data *tdata, int proxy,
                      const pjsip_cred_info *token)
{
    pj_str_t value;

    value.slen = token->data.slen + 7;
    value.ptr = pj_pool_alloc(tdata->pool, (pj_size_t)value.slen);
    memcpy(value.ptr, "Bearer ", 7);
    memcpy(value.ptr + 7, token->data.ptr, (size_t)token->data.slen);
    pjsip_msg_add_hdr(tdata->msg,
                      (pjsip_hdr *)pjsip_generic_string_hdr_create(
                          tdata->pool, &proof_names[proxy], &value));
}

/* Before the message is printed: a token that was asked for once goes with
   every request from then on, if what it goes by is safe. */
pj_status_t auth_on_tx(pjsip_tx_data *tdata)
{
    client *c;

    if (!pjpy.tokens || tdata->msg->type != PJSIP_REQUEST_MSG ||
        tdata->msg->line.req.method.id != PJSIP_REGISTER_METHOD)
        return PJ_SUCCESS;
    c = client_of(tdata->msg);
    for (int proxy = 0; c && proxy < 2; proxy++) {
        pjsip_hdr *sent = find_token(tdata->msg, proxy);
        const pjsip_cred_info *token = c->proof[proxy];
        int fits = token && may_show(token, tdata->tp_info.transport);

        if (sent && !fits)
            pj_list_erase(sent);
        else if (!sent && fits)
            add_token(tdata, proxy, token);
        else
            continue;
        pjsip_tx_data_invalidate_msg(tdata);
    }
    return PJ_SUCCESS;
}

/* Of the last proof in it, as PJSIP prints them: the registrar's own. */
unsigned auth_algorithm(const client *c, pjsip_msg *request)
{
    unsigned algorithm = PJPY_ALG_NONE;

    for (int proxy = 1; proxy >= 0; proxy--) {
        const pjsip_authorization_hdr *sent = find_digest(request, proxy, NULL);

        if (sent) {
            const pjsip_auth_algorithm *known =
                pjsip_auth_get_algorithm_by_iana_name(
                    &sent->credential.digest.algorithm);
            algorithm = known ? (unsigned)known->algorithm_type
                              : PJPY_ALG_OTHER;
        }
        if (c->proof[proxy] && find_token(request, proxy))
            algorithm = PJPY_ALG_BEARER;
    }
    return algorithm;
}

/* As PJSIP makes a request ready that goes out again. */
static pjsip_tx_data *resend(pjsip_tx_data *tdata)
{
    pjsip_via_hdr *via = pjsip_msg_find_hdr(tdata->msg, PJSIP_H_VIA, NULL);

    via->branch_param.slen = 0;
    pjsip_restore_strict_route_set(tdata);
    pjsip_tx_data_invalidate_msg(tdata);
    tdata->auth_retry = PJ_TRUE;
    pjsip_tx_data_add_ref(tdata);
    return tdata;
}

/* ------------------------------------------------------------- answer */

/* Makes the request ready for its answer: how many digests are for PJSIP to
   make, or -1 when nothing can be answered. */
static int prepare(client *c, pjsip_msg *response, pjsip_tx_data *tdata,
                   realm *realms, int count)
{
    int digests = 0, tokens = 0;

    if (c->requests >= MAX_REQUESTS)
        c->auth_status = PJSIP_EAUTHSTALECOUNT;
    if (c->requests >= MAX_REQUESTS || c->auth_status == PJPY_STATUS_DOWNGRADE)
        count = 0; /* no proof at all */
    for (realm *r = realms; r < realms + count; r++) {
        if (!r->chosen)
            continue;
        if (r->algorithm != PJPY_ALG_BEARER) {
            digests++;
        } else if (r->refused) {
            worsen(&c->auth_status, PJSIP_EFAILEDCREDENTIAL);
            r->chosen = NULL;
        } else {
            c->proof[r->proxy] = r->with;
            pjpy.tokens = 1;
            tokens++;
        }
    }
    drop_challenges(response, realms, count);
    drop_cached(c, realms, count);
    if (digests + tokens == 0)
        return -1;
    prove_others_anew(c, tdata, realms, count);
    return digests;
}

struct asking {
    uint32_t id;
    int over;
    void *token;
    pjsip_rx_data *rdata;
    pjsip_tx_data *tdata;
};

static uint32_t asking_ids;

static void ask_free(client *c)
{
    struct asking *a = c->asking;

    c->asking = NULL;
    pjsip_rx_data_free_cloned(a->rdata);
    pjsip_tx_data_dec_ref(a->tdata);
    free(a);
}

/* Whoever gives up a REGISTER whose challenge waits for Python tells the
   outcome by himself. */
void auth_abandon(client *c)
{
    struct asking *a = c->asking;

    if (!a || a->over)
        return;
    a->over = 1;
    pjsip_auth_clt_async_abandon(pjsip_regc_get_auth_sess(c->regc), a->token);
    ask_free(c);
}

int auth_is_over(const client *c)
{
    return c->asking && c->asking->over;
}

static unsigned bit_of(const realm *r)
{
    return 1u << (map_hash(r->name.ptr, (size_t)r->name.slen) + r->proxy) % 8;
}

static int must_ask(const client *c, const realm *r)
{
    return r->usable &&
           (!r->chosen ? r->why == PJSIP_ENOCREDENTIAL
                       : r->refused && !(c->asked_again & bit_of(r)));
}

/* For each realm a line of numbers and its name. */
static pj_bool_t ask(client *c, void *token, const pjsip_rx_data *rdata,
                     pjsip_tx_data *tdata, const realm *realms, int count)
{
    char list[PJSIP_MAX_PKT_LEN + 32 * MAX_REALMS], copy[PJSIP_MAX_PKT_LEN];
    char source[PJ_INET6_ADDRSTRLEN + 10];
    pj_str_t host = pj_str((char *)rdata->pkt_info.src_name);
    size_t used = 0, length = (size_t)rdata->msg_info.len;
    event_text text[4] = { { 0 } };
    pjpy_event event = { .kind = PJPY_EV_CHALLENGE, .handle = c->handle };
    unsigned again = 0;
    struct asking *a = calloc(1, sizeof *a);

    if (!a || pjsip_rx_data_clone(rdata, 0, &a->rdata) != PJ_SUCCESS) {
        free(a);
        return PJ_FALSE;
    }
    for (const realm *r = realms; r < realms + count; r++) {
        if (!must_ask(c, r) || used + (size_t)r->name.slen + 32 > sizeof list)
            continue;
        used += (size_t)snprintf(list + used, sizeof list - used, "%d %u %u %d",
                                 r->proxy, r->usable, r->offered, r->refused) +
                1;
        memcpy(list + used, r->name.ptr, (size_t)r->name.slen);
        used += (size_t)r->name.slen;
        list[used++] = '\0';
        if (r->refused)
            again |= bit_of(r);
    }
    a->id = ++asking_ids;
    a->token = token;
    a->tdata = tdata;
    pjsip_tx_data_add_ref(tdata);
    c->asking = a;
    c->asked++;
    c->asked_again |= again;
    if (length > sizeof copy)
        length = sizeof copy;
    memcpy(copy, rdata->msg_info.msg_buf, length);
    pjpy_redact(copy, length);
    text[0] = (event_text){ list, used };
    text[1] = (event_text){ copy, length };
    pj_addr_str_print(&host, rdata->pkt_info.src_port, source, sizeof source,
                      1);
    text[2] = (event_text){ source, strlen(source) };
    event.request = a->id;
    queue_push(&event, text, NULL);
    return PJ_TRUE;
}

/* Each 401 and 407 of a registration comes by here.  True: PJSIP leaves it to
   us; false: it answers what is left of it. */
pj_bool_t auth_on_challenge(pjsip_auth_clt_sess *session, void *token,
                            const pjsip_auth_clt_async_on_chal_param *param)
{
    client *c = client_of(param->tdata->msg);
    realm realms[MAX_REALMS] = { { 0 } };
    pjsip_tx_data *tdata = (pjsip_tx_data *)param->tdata;
    int count, digests;

    if (!c || c->abandoned)
        return PJ_FALSE;
    count = examine(c, param->rdata, tdata, realms);
    for (int i = 0; i < count; i++)
        if (c->asks && c->asked < MAX_REALMS && must_ask(c, &realms[i]) &&
            ask(c, token, param->rdata, tdata, realms, count))
            return PJ_TRUE;
    digests = prepare(c, param->rdata->msg_info.msg, tdata, realms, count);
    if (digests != 0)
        return PJ_FALSE;
    pjsip_auth_clt_async_send_req(session, token, resend(tdata));
    return PJ_TRUE;
}

/* What Python knows now. */
static void go_on(client *c, const char *text, uint32_t count)
{
    pjsip_auth_clt_sess *session = pjsip_regc_get_auth_sess(c->regc);
    struct asking *a = c->asking;
    realm before[MAX_REALMS] = { { 0 } }, realms[MAX_REALMS] = { { 0 } };
    pjsip_tx_data *again = NULL;
    int found, digests;
    secrets *s, *old = c->secrets;
    pj_status_t status = read_secrets(c, &text, count, 1, &s);

    examine(c, a->rdata, a->tdata, before);
    if (status == PJ_SUCCESS) {
        c->secrets = NULL; /* kept, to be compared with */
        use_secrets(c, s);
    }
    found = examine(c, a->rdata, a->tdata, realms);
    for (realm *r = realms; r < realms + found; r++) {
        pjsip_hdr *sent;

        const realm *was = &before[r - realms];

        if (r->chosen && !(r->refused && was->with &&
                           pjsip_cred_info_cmp(r->with, was->with) == 0)) {
            /* What was refused is not what is proved now. */
            r->refused = 0;
            while ((sent = (pjsip_hdr *)find_digest(a->tdata->msg, r->proxy,
                                                    &r->name)) ||
                   (sent = find_token(a->tdata->msg, r->proxy)))
                pj_list_erase(sent);
        }
    }
    if (status == PJ_SUCCESS)
        secrets_free(old);
    else
        c->auth_status = status;
    digests = status == PJ_SUCCESS
                  ? prepare(c, a->rdata->msg_info.msg, a->tdata, realms, found)
                  : -1;
    if (digests > 0)
        status = pjsip_auth_clt_reinit_req(session, a->rdata, a->tdata, &again);
    else if (digests == 0)
        again = resend(a->tdata);
    if (again) {
        void *token = a->token;

        ask_free(c);
        pjsip_auth_clt_async_send_req(session, token, again);
        return;
    }
    a->over = 1;
    pjsip_auth_clt_async_abandon(session, a->token);
    client_refused(c, a->rdata, status);
    ask_free(c);
}

int auth_answer(command *cmd)
{
    client *c = handle_get(cmd->handle, OBJ_CLIENT);

    if (!c || !c->asking || c->asking->id != cmd->request) {
        pjpy.late_events++;
        return PJPY_ESTALE;
    }
    go_on(c, cmd->text, cmd->count);
    return 0;
}

/* ---------------------------------------------------------- next nonce */

/* The value of nextnonce (RFC 7616, 3.5), without its quotes. */
static int find_nextnonce(const pj_str_t *value, pj_str_t *found)
{
    const char *p = value->ptr, *end = p + value->slen;

    while (p < end) {
        const char *name, *stop;

        while (p < end && strchr(" \t\r\n,", *p))
            p++;
        for (name = p; p < end && !strchr(" \t\r\n,=", *p); p++)
            ;
        stop = p;
        while (p < end && *p != '=' && *p != ',')
            p++;
        if (p == end || *p == ',')
            continue;
        for (p++; p < end && strchr(" \t\r\n", *p); p++)
            ;
        if (p == end || *p != '"') {
            while (p < end && *p != ',')
                p++;
            continue;
        }
        found->ptr = (char *)++p;
        while (p < end && *p != '"')
            p += *p == '\\' && p + 1 < end ? 2 : 1;
        found->slen = p - found->ptr;
        p++;
        if (stop - name == 9 && pj_ansi_strnicmp(name, "nextnonce", 9) == 0)
            return found->slen > 0 && is_clean(found);
    }
    return 0;
}

/* Which realm it is for the header does not say: the one there is. */
static pjsip_cached_auth *only_realm(client *c, int proxy)
{
    pjsip_auth_clt_sess *session = pjsip_regc_get_auth_sess(c->regc);
    pjsip_cached_auth *found = NULL, *auth;

    for (auth = session->cached_auth.next; auth != &session->cached_auth;
         auth = auth->next) {
        if (!!auth->is_proxy != proxy || !auth->last_chal)
            continue;
        if (found)
            return NULL;
        found = auth;
    }
    return found;
}

void auth_on_success(client *c, const pjsip_rx_data *rdata)
{
    static const pj_str_t names[] = { { "Authentication-Info", 19 },
                                      { "Proxy-Authentication-Info", 25 } };

    for (int proxy = 0; proxy < 2; proxy++) {
        const pjsip_generic_string_hdr *h = pjsip_msg_find_hdr_by_name(
            rdata->msg_info.msg, &names[proxy], NULL);
        pjsip_cached_auth *auth = h ? only_realm(c, proxy) : NULL;
        pj_str_t next, *nonce;

        if (!auth || !find_nextnonce(&h->hvalue, &next))
            continue;
        nonce = &auth->last_chal->challenge.digest.nonce;
        if (pj_strcmp(nonce, &next) == 0)
            continue;
        if (next.slen <= nonce->slen) {
            memcpy(nonce->ptr, next.ptr, (size_t)next.slen);
            nonce->slen = next.slen;
        } else if (pj_pool_get_used_size(auth->pool) > MAX_CACHED) {
            forget_realm(auth); /* its next challenge costs a round trip */
            continue;
        } else {
            pj_strdup(auth->pool, nonce, &next);
        }
        auth->nc = 0;
    }
}

/* --------------------------------------------------------------- end */

/* What was refused is not proved by itself again: the next request begins
   without a proof, and a secret that can be asked for is. */
void auth_on_refusal(client *c)
{
    forget_realms(c);
    if (c->asks)
        use_secrets(c, NULL);
}

void auth_close(client *c)
{
    auth_abandon(c);
    if (c->regc)
        use_secrets(c, NULL);
}
