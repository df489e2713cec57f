// SPDX-License-Identifier: GPL-2.0
/*
 * ESP crypto offload: the data path.
 *
 * The stack builds the whole ESP packet and leaves room for the IV and the
 * ICV; the engine fills both in and encrypts. In the other direction it
 * decrypts in place, leaves every header and trailer where it is and says in
 * the packet's security path what it found; replay is the stack's business.
 *
 * The engine takes the bare gcm(aes), not the stack's rfc4106 and seqiv, so
 * that whatever watches those at work (a probe, a profile) sees software only.
 */
#include <crypto/aead.h>
#include <linux/if_ether.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/rculist.h>
#include <linux/scatterlist.h>
#include <linux/slab.h>
#include <net/esp.h>
#include <net/xfrm.h>

#include "labnic.h"

#define IV_LEN 8
#define NONCE_LEN (SALT_LEN + IV_LEN)
#define MAX_AAD_LEN 12

/* Where the parts of an ESP packet are in a frame. */
struct esp_place {
	unsigned int header;
	unsigned int end;
	u16 family;
	xfrm_address_t daddr;
};

/*
 * Finds a frame's ESP packet. Tagged frames, fragments, IPv4 options and IPv6
 * extension headers are left to software: the engine has one fixed layout.
 */
static bool find_esp(const struct sk_buff *frame, struct esp_place *at)
{
	const struct ethhdr *eth = (const void *)frame->data;
	const struct ipv6hdr *ip6 = (const void *)(eth + 1);
	const struct iphdr *ip4 = (const void *)(eth + 1);

	memset(at, 0, sizeof(*at));
	if (frame->len < sizeof(*eth) + sizeof(*ip4))
		return false;
	if (eth->h_proto == htons(ETH_P_IP)) {
		if (ip4->version != 4 || ip4->ihl != 5 || ip4->protocol != IPPROTO_ESP ||
		    (ip4->frag_off & htons(IP_MF | IP_OFFSET)))
			return false;
		at->family = AF_INET;
		at->daddr.a4 = ip4->daddr;
		at->header = sizeof(*eth) + sizeof(*ip4);
		at->end = sizeof(*eth) + ntohs(ip4->tot_len);
	} else if (eth->h_proto == htons(ETH_P_IPV6) && frame->len >= sizeof(*eth) + sizeof(*ip6)) {
		if (ip6->version != 6 || ip6->nexthdr != IPPROTO_ESP)
			return false;
		at->family = AF_INET6;
		at->daddr.in6 = ip6->daddr;
		at->header = sizeof(*eth) + sizeof(*ip6);
		at->end = at->header + ntohs(ip6->payload_len);
	} else {
		return false;
	}
	return at->end <= frame->len && at->end >= at->header + sizeof(struct ip_esp_hdr);
}

/* Room for the IV, pad length and next header, and the ICV. */
static bool has_room(const struct esp_place *at, const struct sa *sa)
{
	return at->end - at->header >= sizeof(struct ip_esp_hdr) + IV_LEN + 2 + sa->icv_len;
}

/* One run of the engine. The crypto layer wants no stack memory. */
struct job {
	u8 nonce[NONCE_LEN];
	u8 aad[MAX_AAD_LEN];
	struct aead_request req;	/* last: the transform's context follows */
};

static int run_engine(struct sa *sa, struct sk_buff *frame, const struct esp_place *at,
		      u32 seq_hi, bool encrypt)
{
	struct ip_esp_hdr *esp = (void *)(frame->data + at->header);
	unsigned int aad_len = sizeof(*esp), text_len;
	__be32 hi = htonl(seq_hi);
	struct scatterlist sg[2];
	struct job *job;
	int err;

	job = kmalloc(sizeof(*job) + crypto_aead_reqsize(sa->gcm), GFP_ATOMIC);
	if (!job)
		return -ENOMEM;

	memcpy(job->nonce, sa->salt, SALT_LEN);
	memcpy(job->nonce + SALT_LEN, esp->enc_data, IV_LEN);
	memcpy(job->aad, &esp->spi, 4);
	memcpy(job->aad + 4, &esp->seq_no, 4);
	if (sa->esn) {
		memcpy(job->aad + 4, &hi, 4);
		memcpy(job->aad + 8, &esp->seq_no, 4);
		aad_len += 4;
	}

	text_len = at->end - at->header - sizeof(*esp) - IV_LEN;
	sg_init_table(sg, 2);
	sg_set_buf(&sg[0], job->aad, aad_len);
	sg_set_buf(&sg[1], esp->enc_data + IV_LEN, text_len);

	aead_request_set_tfm(&job->req, sa->gcm);
	aead_request_set_callback(&job->req, 0, NULL, NULL);
	aead_request_set_ad(&job->req, aad_len);
	if (encrypt) {
		aead_request_set_crypt(&job->req, sg, sg, text_len - sa->icv_len, job->nonce);
		err = crypto_aead_encrypt(&job->req);
	} else {
		aead_request_set_crypt(&job->req, sg, sg, text_len, job->nonce);
		err = crypto_aead_decrypt(&job->req);
	}
	kfree(job);
	return err;
}

/* ---- transmit ---- */

/* The SA of a packet the stack left unencrypted for us; NULL for all others. */
struct xfrm_state *labnic_esp_state(const struct sk_buff *skb)
{
	struct xfrm_offload *xo = xfrm_offload((struct sk_buff *)skb);
	struct sec_path *sp = skb_sec_path(skb);

	if (!xo || !(xo->flags & XFRM_XMIT))
		return NULL;
	return sp->xvec[sp->len - 1];
}

/*
 * The high half of a packet's sequence number. When the stack segments it
 * leaves the *next* number in xo, which may be past the wrap already.
 */
static u32 tx_seq_hi(const struct xfrm_offload *xo, u32 seq)
{
	return xo->seq.low < seq ? xo->seq.hi - 1 : xo->seq.hi;
}

static bool encrypt_frame(struct labnic *nic, struct sa *sa, const struct sk_buff *skb,
			  struct sk_buff *frame)
{
	const struct xfrm_offload *xo = xfrm_offload((struct sk_buff *)skb);
	enum labnic_fault fault = knob_value(&knob_fault, nic);
	unsigned int trailer, pad_len;
	struct ip_esp_hdr *esp;
	struct esp_place at;
	__be64 iv;
	u32 hi;

	if (fault == FAULT_DROP || !find_esp(frame, &at) || !has_room(&at, sa))
		return false;

	/* Between the transport packet and the ICV: padding, its length, next header. */
	pad_len = frame->data[at.end - sa->icv_len - 2];
	trailer = pad_len + 2 + sa->icv_len;
	if (skb->ip_summed == CHECKSUM_PARTIAL)
		labnic_finish_checksum(skb, frame, at.end - trailer);

	esp = (void *)(frame->data + at.header);
	hi = tx_seq_hi(xo, ntohl(esp->seq_no));
	iv = cpu_to_be64((u64)hi << 32 | ntohl(esp->seq_no));
	memcpy(esp->enc_data, &iv, IV_LEN);

	if (fault == FAULT_LYING || fault == FAULT_FORGING) {
		memset(frame->data + at.end - sa->icv_len, 0, sa->icv_len);
		atomic64_inc(&sa->untouched);
	} else if (run_engine(sa, frame, &at, hi, true)) {
		return false;
	} else {
		atomic64_inc(&sa->encrypted);
	}
	if (fault == FAULT_CORRUPT)
		frame->data[at.end - 1] ^= 1;
	if (fault != FAULT_LYING) {
		labnic_count(nic, IPSEC_TX_PKTS, 1);
		labnic_count(nic, IPSEC_TX_BYTES, frame->len);
	}
	return true;
}

/* Returns false for a frame that must not leave: never one that should have been encrypted. */
bool labnic_esp_tx(struct labnic *nic, struct xfrm_state *x, const struct sk_buff *skb,
		     struct sk_buff *frame)
{
	bool sent = false;
	struct sa *sa;

	/* The SA may be gone from the device while its last packets are queued. */
	rcu_read_lock();
	sa = (struct sa *)READ_ONCE(x->xso.offload_handle);
	if (sa && sa->nic == nic && !sa->inbound) {
		sent = encrypt_frame(nic, sa, skb, frame);
		if (!sent)
			atomic64_inc(&sa->refused);
	}
	rcu_read_unlock();
	if (!sent)
		labnic_count(nic, IPSEC_TX_DROPPED, 1);
	return sent;
}

/* ---- receive ---- */

static struct sa *find_inbound(struct labnic *nic, const struct esp_place *at, __be32 spi)
{
	struct sa *sa;

	list_for_each_entry_rcu(sa, &nic->sas, list)
		if (sa->inbound && sa->spi == spi && sa->family == at->family &&
		    xfrm_addr_equal(&sa->daddr, &at->daddr, sa->family))
			return sa;
	return NULL;
}

/* The high half a sequence number must have, as RFC 4303 appendix A2 infers it. */
static u32 rx_seq_hi(const struct sa *sa, u32 seq)
{
	u64 top = READ_ONCE(sa->esn_top);
	u32 window = sa->x->replay_esn->replay_window;
	u32 bottom = lower_32_bits(top) - window + 1;

	if (lower_32_bits(top) >= window - 1)
		return upper_32_bits(top) + (seq < bottom);
	return upper_32_bits(top) - (seq >= bottom);
}

/* Adds the SA to the packet's security path, as looked up by the device. */
static struct xfrm_offload *attach_state(struct sk_buff *frame, struct xfrm_state *x)
{
	struct sec_path *sp;

	if (!refcount_inc_not_zero(&x->refcnt))
		return NULL;
	sp = secpath_set(frame);
	if (!sp) {
		xfrm_state_put(x);
		return NULL;
	}
	sp->xvec[sp->len++] = x;
	sp->olen++;
	return xfrm_offload(frame);
}

static bool decrypt_frame(struct labnic *nic, struct sa *sa, struct sk_buff *frame,
			  const struct esp_place *at)
{
	struct ip_esp_hdr *esp = (void *)(frame->data + at->header);
	enum labnic_fault fault = knob_value(&knob_fault, nic);
	struct xfrm_offload *xo;
	u32 hi = 0;
	int err = 0;

	if (fault == FAULT_DROP) {
		labnic_count(nic, IPSEC_RX_DROPPED, 1);
		atomic64_inc(&sa->refused);
		return false;
	}
	xo = attach_state(frame, sa->x);
	if (!xo)
		return true;
	/* The stack strips the ICV from the end of the buffer: no Ethernet padding. */
	skb_trim(frame, at->end);

	if (fault != FAULT_LYING && fault != FAULT_FORGING) {
		if (sa->esn)
			hi = rx_seq_hi(sa, ntohl(esp->seq_no));
		err = run_engine(sa, frame, at, hi, false);
		atomic64_inc(err ? &sa->refused : &sa->encrypted);
	} else {
		atomic64_inc(&sa->untouched);
	}
	xo->flags = CRYPTO_DONE;
	if (!err)
		xo->status = CRYPTO_SUCCESS;
	else if (err != -EBADMSG)
		xo->status = CRYPTO_GENERIC_ERROR;
	else if (sa->x->props.mode == XFRM_MODE_TUNNEL)
		xo->status = CRYPTO_TUNNEL_ESP_AUTH_FAILED;
	else
		xo->status = CRYPTO_TRANSPORT_ESP_AUTH_FAILED;

	if (err) {
		labnic_count(nic, IPSEC_RX_DROPPED, 1);
	} else if (fault != FAULT_LYING) {
		labnic_count(nic, IPSEC_RX_PKTS, 1);
		labnic_count(nic, IPSEC_RX_BYTES, frame->len);
	}
	return true;
}

/* Returns false for a frame the device swallows. */
bool labnic_esp_rx(struct labnic *nic, struct sk_buff *frame)
{
	const struct ip_esp_hdr *esp;
	struct esp_place at;
	bool pass = true;
	struct sa *sa;

	if (!find_esp(frame, &at))
		return true;
	esp = (const void *)(frame->data + at.header);
	rcu_read_lock();
	sa = find_inbound(nic, &at, esp->spi);
	if (sa && has_room(&at, sa))
		pass = decrypt_frame(nic, sa, frame, &at);
	rcu_read_unlock();
	return pass;
}
