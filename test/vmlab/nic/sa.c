// SPDX-License-Identifier: GPL-2.0
/*
 * ESP crypto offload: which SAs the device takes, and its table of them.
 */
#include <crypto/aead.h>
#include <linux/pfkeyv2.h>
#include <linux/rculist.h>
#include <linux/slab.h>
#include <linux/version.h>
#include <net/bonding.h>
#include <net/ipv6.h>
#include <net/xfrm.h>

#include "labnic.h"

static struct workqueue_struct *free_queue;

/* All a ConnectX refuses in crypto mode, in its order. */
static const char *strict_refusal(const struct xfrm_state *x, bool esn)
{
	if (x->props.aalgo != SADB_AALG_NONE)
		return "An authenticated xfrm state cannot be offloaded";
	if (x->props.ealgo != SADB_X_EALG_AES_GCM_ICV16)
		return "Only AES-GCM-ICV16 xfrm state may be offloaded";
	if (x->props.calgo != SADB_X_CALG_NONE)
		return "A compressed xfrm state cannot be offloaded";
	if ((x->props.flags & XFRM_STATE_ESN) && !esn)
		return "An ESN xfrm state cannot be offloaded";
	if (x->props.family != AF_INET && x->props.family != AF_INET6)
		return "Only an IPv4 or IPv6 xfrm state may be offloaded";
	if (x->id.proto != IPPROTO_ESP)
		return "Only an ESP xfrm state may be offloaded";
	if (x->encap)
		return "An encapsulated xfrm state cannot be offloaded";
	if (!x->aead)
		return "An xfrm state without AEAD cannot be offloaded";
	if (x->aead->alg_icv_len != 128)
		return "The AEAD ICV must have 128 bits";
	if (x->aead->alg_key_len != 128 + 32 && x->aead->alg_key_len != 256 + 32)
		return "The AEAD key must have 128 or 256 bits";
	if (x->tfcpad)
		return "TFC padding cannot be offloaded";
	if (!x->geniv)
		return "An xfrm state without geniv cannot be offloaded";
	if (strcmp(x->geniv, "seqiv"))
		return "Only the geniv seqiv can be offloaded";
	if (x->sel.proto && x->sel.proto != IPPROTO_TCP && x->sel.proto != IPPROTO_UDP)
		return "The selector's protocol must be TCP, UDP or any";
	if (x->props.mode != XFRM_MODE_TRANSPORT && x->props.mode != XFRM_MODE_TUNNEL)
		return "Only transport and tunnel mode may be offloaded";
	return NULL;
}

/* What the engine itself cannot do. */
static const char *engine_refusal(const struct xfrm_state *x, bool esn)
{
	if (x->id.proto != IPPROTO_ESP || !x->aead ||
	    strcmp(x->aead->alg_name, "rfc4106(gcm(aes))"))
		return "The engine does ESP with AES-GCM only";
	if ((x->props.flags & XFRM_STATE_ESN) && !esn)
		return "The engine does no ESN";
	if (x->encap || x->tfcpad)
		return "The engine does neither encapsulation nor TFC padding";
	if (x->props.mode != XFRM_MODE_TRANSPORT && x->props.mode != XFRM_MODE_TUNNEL)
		return "The engine does transport and tunnel mode only";
	return NULL;
}

static const char *refusal(const struct labnic *nic, const struct xfrm_state *x)
{
	const char *why = NULL;

	if (knob_value(&knob_strict, nic))
		why = strict_refusal(x, knob_value(&knob_esn, nic));
	if (!why)
		why = engine_refusal(x, knob_value(&knob_esn, nic));
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 2, 0)
	if (!why && x->xso.type != XFRM_DEV_OFFLOAD_CRYPTO)
		why = "Packet offload is not supported";
#endif
	return why;
}

static void free_crypto(struct sa *sa)
{
	if (sa->gcm)
		crypto_free_aead(sa->gcm);
	kfree_sensitive(sa);
}

static struct sa *new_sa(struct labnic *nic, struct xfrm_state *x)
{
	unsigned int key_len = (x->aead->alg_key_len + 7) / 8 - SALT_LEN;
	struct sa *sa = kzalloc(sizeof(*sa), GFP_KERNEL);
	int err;

	if (!sa)
		return ERR_PTR(-ENOMEM);
	/* Synchronous: a driver's transmit function cannot wait. */
	sa->gcm = crypto_alloc_aead("gcm(aes)", 0, CRYPTO_ALG_ASYNC);
	if (IS_ERR(sa->gcm)) {
		err = PTR_ERR(sa->gcm);
		sa->gcm = NULL;
		goto fail;
	}
	sa->icv_len = x->aead->alg_icv_len / 8;
	err = crypto_aead_setauthsize(sa->gcm, sa->icv_len) ?:
	      crypto_aead_setkey(sa->gcm, x->aead->alg_key, key_len);
	if (err)
		goto fail;
	memcpy(sa->salt, x->aead->alg_key + key_len, SALT_LEN);

	sa->nic = nic;
	sa->x = x;
	sa->inbound = x->xso.dir == XFRM_DEV_OFFLOAD_IN;
	sa->family = x->props.family;
	sa->spi = x->id.spi;
	sa->daddr = x->id.daddr;
	sa->esn = x->props.flags & XFRM_STATE_ESN;
	if (sa->esn)
		sa->esn_top = (u64)x->replay_esn->seq_hi << 32 | x->replay_esn->seq;
	return sa;
fail:
	free_crypto(sa);
	return ERR_PTR(err);
}

/* At the tail: while a duplicate is being refused the first SA stays in force. */
static bool list_sa(struct labnic *nic, struct sa *sa)
{
	spin_lock_bh(&nic->sa_lock);
	if (nic->nr_sas < knob_value(&knob_max_sas, nic)) {
		list_add_tail_rcu(&sa->list, &nic->sas);
		nic->nr_sas++;
		sa->listed = true;
	}
	spin_unlock_bh(&nic->sa_lock);
	return sa->listed;
}

static void unlist_sa(struct labnic *nic, struct sa *sa)
{
	spin_lock_bh(&nic->sa_lock);
	if (sa->listed) {
		list_del_rcu(&sa->list);
		nic->nr_sas--;
		sa->listed = false;
	}
	spin_unlock_bh(&nic->sa_lock);
}

/* The reason reaches the caller where the kernel has a way, the log where not. */
static int refuse(struct labnic *nic, struct netlink_ext_ack *extack, int err, const char *why)
{
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 2, 0)
	NL_SET_ERR_MSG_FMT_MOD(extack, "%s", why);
#else
	netdev_info(nic->dev, "%s\n", why);
#endif
	return err;
}

/*
 * The port that an SA is for. A bond calls for its active one. Most kernels say
 * so in real_dev; 6.12.117 only sets that afterwards, and has the bond in it.
 */
static struct labnic *port_of(const struct xfrm_state *x)
{
	struct net_device *dev = x->xso.real_dev;
	struct slave *active;

	if (!dev || !labnic_is_port(dev)) {
		dev = NULL;
		rcu_read_lock();
		if (netif_is_bond_master(x->xso.dev)) {
			active = rcu_dereference(((struct bonding *)netdev_priv(x->xso.dev))->curr_active_slave);
			dev = active ? active->dev : NULL;
		}
		rcu_read_unlock();
	}
	return dev && labnic_is_port(dev) ? netdev_priv(dev) : NULL;
}

static int state_add(struct xfrm_state *x, struct netlink_ext_ack *extack)
{
	struct labnic *nic = port_of(x);
	const char *why;
	struct sa *sa;

	if (!nic)
		return -ENODEV;
	switch (knob_value(&knob_fault, nic)) {
	case FAULT_EOPNOTSUPP:
		return -EOPNOTSUPP;
	case FAULT_EINVAL:
		return refuse(nic, extack, -EINVAL, "Refused by the fault einval");
	case FAULT_MUTE:
		return -EINVAL;
	default:
		break;
	}
	why = refusal(nic, x);
	if (why)
		return refuse(nic, extack, -EINVAL, why);

	sa = new_sa(nic, x);
	if (IS_ERR(sa))
		return refuse(nic, extack, PTR_ERR(sa), "The engine took no key");
	if (!list_sa(nic, sa)) {
		free_crypto(sa);
		return refuse(nic, extack, -ENOSPC, "No space in the SA table");
	}
	x->xso.offload_handle = (unsigned long)sa;
	return 0;
}

/* May run in softirq, when an SA expires. */
static void state_delete(struct xfrm_state *x)
{
	struct sa *sa = (struct sa *)x->xso.offload_handle;

	if (sa)
		unlist_sa(sa->nic, sa);
}

static void free_sa(struct work_struct *work)
{
	free_crypto(container_of(to_rcu_work(work), struct sa, free_work));
}

/*
 * May run in softirq, and while packets of the SA are on their way: the
 * cipher's handle goes after a grace period, in a context that may sleep.
 */
static void state_free(struct xfrm_state *x)
{
	struct sa *sa = (struct sa *)x->xso.offload_handle;

	if (!sa)
		return;
	WRITE_ONCE(x->xso.offload_handle, 0);
	unlist_sa(sa->nic, sa);
	INIT_RCU_WORK(&sa->free_work, free_sa);
	queue_rcu_work(free_queue, &sa->free_work);
}

static bool offload_ok(struct sk_buff *skb, struct xfrm_state *x)
{
	if (skb->protocol == htons(ETH_P_IP))
		return ip_hdr(skb)->ihl == 5 && !ip_is_fragment(ip_hdr(skb));
	if (skb->protocol == htons(ETH_P_IPV6))
		return !ipv6_ext_hdr(ipv6_hdr(skb)->nexthdr);
	return false;
}

/* The stack accepted a packet: where its window now ends decides the high half. */
static void advance_esn(struct xfrm_state *x)
{
	struct sa *sa;

	rcu_read_lock();
	sa = (struct sa *)READ_ONCE(x->xso.offload_handle);
	if (sa && sa->esn)
		WRITE_ONCE(sa->esn_top, (u64)x->replay_esn->seq_hi << 32 | x->replay_esn->seq);
	rcu_read_unlock();
}

#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 2, 0)
static int state_add_quiet(struct xfrm_state *x)
{
	return state_add(x, NULL);
}
#else
#define state_add_quiet state_add
#endif

static const struct xfrmdev_ops labnic_xfrmdev_ops = {
	.xdo_dev_state_add = state_add_quiet,
	.xdo_dev_state_delete = state_delete,
	.xdo_dev_state_free = state_free,
	.xdo_dev_offload_ok = offload_ok,
	.xdo_dev_state_advance_esn = advance_esn,
};

void labnic_sa_init(struct labnic *nic)
{
	spin_lock_init(&nic->sa_lock);
	INIT_LIST_HEAD(&nic->sas);
	nic->dev->xfrmdev_ops = &labnic_xfrmdev_ops;
}

int labnic_sa_start(void)
{
	free_queue = alloc_workqueue("labnic", 0, 0);
	return free_queue ? 0 : -ENOMEM;
}

void labnic_sa_stop(void)
{
	rcu_barrier();		/* grace periods of the last SAs, then their work */
	destroy_workqueue(free_queue);
}
