// SPDX-License-Identifier: GPL-2.0
/*
 * A tap on the cable: a third device that receives a copy of every frame as
 * it crosses. A capture on either port shows what the stack gave or got, so
 * with offload it shows plain packets; only the cable shows what is encrypted.
 */
#include <linux/etherdevice.h>
#include <linux/moduleparam.h>

#include "labnic.h"

static char *wire = "wire0";
module_param(wire, charp, 0444);
MODULE_PARM_DESC(wire, "name of the device that sees every frame on the cable");

static struct net_device *wire_dev;

void labnic_wire_tap(const struct sk_buff *frame)
{
	struct sk_buff *copy;

	if (!netif_running(wire_dev))
		return;
	copy = skb_copy(frame, GFP_ATOMIC);
	if (!copy)
		return;
	copy->protocol = eth_type_trans(copy, wire_dev);
	/* For captures only: the stack must not answer what it overhears. */
	copy->pkt_type = PACKET_OTHERHOST;
	DEV_STATS_INC(wire_dev, rx_packets);
	DEV_STATS_ADD(wire_dev, rx_bytes, frame->len);
	netif_rx(copy);
}

static netdev_tx_t wire_xmit(struct sk_buff *skb, struct net_device *dev)
{
	kfree_skb(skb);		/* a tap does not speak */
	return NETDEV_TX_OK;
}

static const struct net_device_ops wire_ops = {
	.ndo_start_xmit = wire_xmit,
};

static void wire_setup(struct net_device *dev)
{
	ether_setup(dev);
	dev->netdev_ops = &wire_ops;
	dev->flags |= IFF_NOARP;
	dev->max_mtu = LABNIC_MAX_MTU;
	eth_hw_addr_random(dev);
}

int labnic_wire_start(void)
{
	int err;

	wire_dev = alloc_netdev(0, wire, NET_NAME_USER, wire_setup);
	if (!wire_dev)
		return -ENOMEM;
	err = register_netdev(wire_dev);
	if (err)
		free_netdev(wire_dev);
	return err;
}

void labnic_wire_stop(void)
{
	unregister_netdev(wire_dev);
	free_netdev(wire_dev);
}
