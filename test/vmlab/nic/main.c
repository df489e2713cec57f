// SPDX-License-Identifier: GPL-2.0
/*
 * The devices and the cables between them. A frame crosses as bytes:
 * it is copied into a fresh buffer, so that nothing the sender's stack knew
 * about it (marks, hashes, security paths, shared data) reaches the receiver.
 */
#include <linux/etherdevice.h>
#include <linux/ethtool.h>
#include <linux/if_vlan.h>
#include <linux/module.h>
#include <linux/rtnetlink.h>

#include "labnic.h"

static char *names[LABNIC_PORTS] = { "nic0", "nic1", "nic2", "nic3" };
module_param_array(names, charp, NULL, 0444);
MODULE_PARM_DESC(names, "names of the devices");

struct labnic *labnic_ports[LABNIC_PORTS];	/* guarded by RTNL */

static bool receive(struct labnic *nic, struct sk_buff *frame)
{
	unsigned int len = frame->len;

	if (!netif_running(nic->dev) || !netif_carrier_ok(nic->dev) ||
	    len > nic->dev->mtu + ETH_HLEN + VLAN_HLEN || !labnic_esp_rx(nic, frame)) {
		DEV_STATS_INC(nic->dev, rx_dropped);
		return false;
	}
	frame->protocol = eth_type_trans(frame, nic->dev);
	DEV_STATS_INC(nic->dev, rx_packets);
	DEV_STATS_ADD(nic->dev, rx_bytes, len);
	/* GRO is where the stack looks at an offload mark first. */
	gro_cells_receive(&nic->cells, frame);
	return true;
}

static bool transmit(struct labnic *nic, const struct sk_buff *skb, struct sk_buff *frame)
{
	struct xfrm_state *x = labnic_esp_state(skb);

	if (skb_copy_bits(skb, 0, skb_put(frame, skb->len), skb->len))
		return false;
	if (x)
		return labnic_esp_tx(nic, x, skb, frame);
	if (skb->ip_summed == CHECKSUM_PARTIAL)
		labnic_finish_checksum(skb, frame, frame->len);
	return true;
}

static netdev_tx_t labnic_xmit(struct sk_buff *skb, struct net_device *dev)
{
	struct labnic *nic = netdev_priv(dev);
	struct sk_buff *frame;

	frame = netdev_alloc_skb_ip_align(nic->peer->dev, skb->len);
	if (!frame || !transmit(nic, skb, frame)) {
		DEV_STATS_INC(dev, tx_dropped);
		kfree_skb(frame);
		kfree_skb(skb);
		return NETDEV_TX_OK;
	}
	DEV_STATS_INC(dev, tx_packets);
	DEV_STATS_ADD(dev, tx_bytes, skb->len);
	skb_tx_timestamp(skb);
	consume_skb(skb);
	labnic_wire_tap(frame);
	if (!receive(nic->peer, frame))
		kfree_skb(frame);
	return NETDEV_TX_OK;
}

/*
 * tx-esp-segmentation can be switched as on real hardware, but the device
 * does not segment: the stack cuts the packet just before it gets here, and
 * each piece is encrypted by the device.
 */
static netdev_features_t labnic_features_check(struct sk_buff *skb, struct net_device *dev,
					       netdev_features_t features)
{
	return features & ~NETIF_F_GSO_ESP;
}

static bool is_ready(const struct labnic *nic)
{
	return knob_value(&knob_link, nic) && netif_running(nic->dev);
}

/* A link is up when the cable is in and both devices are up. */
static void update_carriers(void)
{
	struct labnic *nic;
	int i;

	ASSERT_RTNL();
	for (i = 0; i < LABNIC_PORTS; i++) {
		nic = labnic_ports[i];
		if (!nic)
			continue;
		if (labnic_ports[i ^ 1] && is_ready(nic) && is_ready(nic->peer))
			netif_carrier_on(nic->dev);
		else
			netif_carrier_off(nic->dev);
	}
}

void labnic_update_carriers(void)
{
	rtnl_lock();
	update_carriers();
	rtnl_unlock();
}

/* What the device does for ESP. */
static const netdev_features_t esp_features = NETIF_F_HW_ESP | NETIF_F_HW_ESP_TX_CSUM;

/* Can be switched, and is on until it is; or is on for good. */
void labnic_update_features(void)
{
	struct net_device *dev;
	int i;

	rtnl_lock();
	for (i = 0; i < LABNIC_PORTS; i++) {
		if (!labnic_ports[i])
			continue;
		dev = labnic_ports[i]->dev;
		dev->hw_features |= esp_features;
		dev->wanted_features |= esp_features;
		netdev_update_features(dev);
		if (!knob_value(&knob_switchable, labnic_ports[i]))
			dev->hw_features &= ~esp_features;
	}
	rtnl_unlock();
}

static int labnic_open_stop(struct net_device *dev)
{
	update_carriers();
	return 0;
}

static int labnic_dev_init(struct net_device *dev)
{
	struct labnic *nic = netdev_priv(dev);

	return gro_cells_init(&nic->cells, dev);
}

static void labnic_dev_uninit(struct net_device *dev)
{
	struct labnic *nic = netdev_priv(dev);

	gro_cells_destroy(&nic->cells);
}

static const struct net_device_ops labnic_ops = {
	.ndo_init = labnic_dev_init,
	.ndo_uninit = labnic_dev_uninit,
	.ndo_open = labnic_open_stop,
	.ndo_stop = labnic_open_stop,
	.ndo_start_xmit = labnic_xmit,
	.ndo_features_check = labnic_features_check,
	.ndo_set_mac_address = eth_mac_addr,
	.ndo_validate_addr = eth_validate_addr,
};

bool labnic_is_port(const struct net_device *dev)
{
	return dev->netdev_ops == &labnic_ops;
}

static const struct {
	char name[ETH_GSTRING_LEN];
	enum labnic_counter counter;
} ethtool_counters[] = {
	{ "ipsec_rx_pkts", IPSEC_RX_PKTS },
	{ "ipsec_rx_bytes", IPSEC_RX_BYTES },
	{ "ipsec_rx_drop_pkts", IPSEC_RX_DROPPED },
	{ "ipsec_tx_pkts", IPSEC_TX_PKTS },
	{ "ipsec_tx_bytes", IPSEC_TX_BYTES },
	{ "ipsec_tx_drop_pkts", IPSEC_TX_DROPPED },
};

static int labnic_sset_count(struct net_device *dev, int sset)
{
	if (sset != ETH_SS_STATS || !knob_value(&knob_counters, netdev_priv(dev)))
		return -EOPNOTSUPP;
	return ARRAY_SIZE(ethtool_counters);
}

static void labnic_strings(struct net_device *dev, u32 sset, u8 *data)
{
	int i;

	if (sset != ETH_SS_STATS)
		return;
	for (i = 0; i < ARRAY_SIZE(ethtool_counters); i++)
		memcpy(data + i * ETH_GSTRING_LEN, ethtool_counters[i].name, ETH_GSTRING_LEN);
}

static void labnic_ethtool_stats(struct net_device *dev, struct ethtool_stats *stats, u64 *data)
{
	struct labnic *nic = netdev_priv(dev);
	int i;

	for (i = 0; i < ARRAY_SIZE(ethtool_counters); i++)
		data[i] = atomic64_read(&nic->counter[ethtool_counters[i].counter]);
}

static void labnic_drvinfo(struct net_device *dev, struct ethtool_drvinfo *info)
{
	strscpy(info->driver, KBUILD_MODNAME, sizeof(info->driver));
}

static const struct ethtool_ops labnic_ethtool_ops = {
	.get_drvinfo = labnic_drvinfo,
	.get_link = ethtool_op_get_link,
	.get_sset_count = labnic_sset_count,
	.get_strings = labnic_strings,
	.get_ethtool_stats = labnic_ethtool_stats,
};

static void labnic_setup(struct net_device *dev)
{
	const netdev_features_t switchable = NETIF_F_SG | NETIF_F_HW_CSUM | NETIF_F_GSO_ESP;

	ether_setup(dev);
	dev->netdev_ops = &labnic_ops;
	dev->ethtool_ops = &labnic_ethtool_ops;
	dev->max_mtu = LABNIC_MAX_MTU;
	dev->features |= switchable | esp_features;
	dev->hw_features |= switchable;
	/* Packets of an offloaded SA are marked as encapsulated and see only these. */
	dev->hw_enc_features |= switchable | esp_features;
	eth_hw_addr_random(dev);
}

static void destroy_ports(void)
{
	struct net_device *devs[LABNIC_PORTS] = {};
	LIST_HEAD(gone);
	int i;

	rtnl_lock();
	for (i = 0; i < LABNIC_PORTS; i++) {
		if (!labnic_ports[i])
			continue;
		devs[i] = labnic_ports[i]->dev;
		if (devs[i]->reg_state == NETREG_REGISTERED)
			unregister_netdevice_queue(devs[i], &gone);
	}
	/* Together: each end is closed before the other end can go away. */
	unregister_netdevice_many(&gone);
	memset(labnic_ports, 0, sizeof(labnic_ports));
	rtnl_unlock();
	for (i = 0; i < LABNIC_PORTS; i++)
		if (devs[i])
			free_netdev(devs[i]);
}

static int create_ports(void)
{
	struct net_device *dev;
	int i, err = 0;

	rtnl_lock();
	for (i = 0; i < LABNIC_PORTS; i++) {
		dev = alloc_netdev(sizeof(struct labnic), names[i], NET_NAME_USER, labnic_setup);
		if (!dev) {
			err = -ENOMEM;
			goto out;
		}
		labnic_ports[i] = netdev_priv(dev);
		labnic_ports[i]->dev = dev;
		labnic_ports[i]->port = i;
		labnic_sa_init(labnic_ports[i]);
	}
	for (i = 0; i < LABNIC_PORTS; i++)
		labnic_ports[i]->peer = labnic_ports[i ^ 1];
	for (i = 0; i < LABNIC_PORTS && !err; i++) {
		netif_carrier_off(labnic_ports[i]->dev);
		err = register_netdevice(labnic_ports[i]->dev);
	}
out:
	rtnl_unlock();
	if (err)
		destroy_ports();
	return err;
}

static int __init labnic_start(void)
{
	int err = labnic_sa_start();

	if (err)
		return err;
	err = labnic_wire_start();
	if (err)
		goto no_wire;
	err = create_ports();
	if (err)
		goto no_ports;
	labnic_update_features();	/* as the parameter says by now */
	labnic_truth_start();
	return 0;

no_ports:
	labnic_wire_stop();
no_wire:
	labnic_sa_stop();
	return err;
}

static void __exit labnic_exit(void)
{
	labnic_truth_stop();
	destroy_ports();
	labnic_wire_stop();
	labnic_sa_stop();
}

module_init(labnic_start);
module_exit(labnic_exit);
MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("Laboratory Ethernet devices with inline ESP AES-GCM");
