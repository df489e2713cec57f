/* SPDX-License-Identifier: GPL-2.0 */
/*
 * labnic: two pairs of Ethernet devices, each joined by a cable, with inline
 * AES-GCM for ESP crypto offload. A laboratory device: it exists to be tested
 * against.
 */
#ifndef LABNIC_H
#define LABNIC_H

#include <linux/list.h>
#include <linux/netdevice.h>
#include <linux/skbuff.h>
#include <linux/spinlock.h>
#include <linux/workqueue.h>
#include <net/checksum.h>
#include <net/gro_cells.h>
#include <net/xfrm.h>

#define LABNIC_PORTS 4		/* 0 and 1 are the ends of a cable, 2 and 3 of another */
#define LABNIC_MAX_MTU 9216

enum labnic_counter {
	IPSEC_RX_PKTS, IPSEC_RX_BYTES, IPSEC_RX_DROPPED,
	IPSEC_TX_PKTS, IPSEC_TX_BYTES, IPSEC_TX_DROPPED,
	LABNIC_COUNTERS
};

struct labnic {
	struct net_device *dev;
	struct labnic *peer;		/* other end of the cable; never changes */
	int port;			/* the index into every knob */
	struct gro_cells cells;
	atomic64_t counter[LABNIC_COUNTERS];

	spinlock_t sa_lock;		/* guards changes of sas and nr_sas */
	struct list_head sas;		/* read under RCU */
	int nr_sas;
};

static inline void labnic_count(struct labnic *nic, enum labnic_counter c, u64 n)
{
	atomic64_add(n, &nic->counter[c]);
}

/* knobs.c: module parameters with one value per port. */
enum labnic_fault {
	FAULT_NONE,
	FAULT_EOPNOTSUPP,	/* refuse such that the kernel silently stays in software */
	FAULT_EINVAL,		/* refuse with a reason */
	FAULT_MUTE,		/* refuse without one */
	FAULT_LYING,		/* accept, do no cryptography, count nothing */
	FAULT_FORGING,		/* accept, do no cryptography, count as if done */
	FAULT_DROP,		/* accept, drop every packet of an offloaded SA */
	FAULT_CORRUPT,		/* accept, flip a bit of every ICV sent */
};

struct knob {
	int value[LABNIC_PORTS];
	int max;			/* values are 0..max */
	const char *const *names;	/* names of the values, or NULL for numbers */
	void (*changed)(void);
};

extern struct knob knob_fault, knob_strict, knob_esn, knob_max_sas, knob_link, knob_counters, knob_switchable;

static inline int knob_value(const struct knob *k, const struct labnic *nic)
{
	return READ_ONCE(k->value[nic->port]);
}

/* main.c */
extern struct labnic *labnic_ports[LABNIC_PORTS];	/* guarded by RTNL */

bool labnic_is_port(const struct net_device *dev);
void labnic_update_carriers(void);
void labnic_update_features(void);

/* wire.c */
void labnic_wire_tap(const struct sk_buff *frame);
int labnic_wire_start(void);
void labnic_wire_stop(void);

/* truth.c */
void labnic_truth_start(void);
void labnic_truth_stop(void);

/* esp.c: a frame is one whole Ethernet frame, linear and ours alone. */
struct xfrm_state *labnic_esp_state(const struct sk_buff *skb);
bool labnic_esp_tx(struct labnic *nic, struct xfrm_state *x, const struct sk_buff *skb,
		   struct sk_buff *frame);
bool labnic_esp_rx(struct labnic *nic, struct sk_buff *frame);

/* sa.c */
#define SALT_LEN 4

struct sa {
	struct labnic *nic;		/* whose it is: a bond moves x from one to another */
	struct list_head list;
	bool listed;			/* under the device's sa_lock */
	struct rcu_work free_work;
	struct xfrm_state *x;		/* not held: unlisted before x can go */
	struct crypto_aead *gcm;
	u8 salt[SALT_LEN];
	u8 icv_len;
	bool inbound;
	bool esn;
	u64 esn_top;			/* highest sequence number the stack accepted */
	u16 family;
	__be32 spi;
	xfrm_address_t daddr;

	/* What was really done with its packets, whatever the fault has others count. */
	atomic64_t encrypted;		/* or decrypted, and found authentic */
	atomic64_t untouched;		/* passed on as they came */
	atomic64_t refused;		/* dropped, or not authentic */
};


void labnic_sa_init(struct labnic *nic);
int labnic_sa_start(void);
void labnic_sa_stop(void);

/*
 * Writes the transport checksum the stack left to the device; end is where
 * the bytes it covers end. The field holds the pseudo-header's sum already.
 */
static inline void labnic_finish_checksum(const struct sk_buff *skb, struct sk_buff *frame,
					  unsigned int end)
{
	int start = skb_checksum_start_offset(skb);
	__sum16 sum = csum_fold(csum_partial(frame->data + start, end - start, 0));

	*(__sum16 *)(frame->data + start + skb->csum_offset) = sum ?: CSUM_MANGLED_0;
}

#endif
