// SPDX-License-Identifier: GPL-2.0
/*
 * Module parameters with one value per port. "X" sets all ports, "X,Y" the two
 * ends of each cable, four values each port. All of them can be written while
 * traffic flows.
 */
#include <linux/moduleparam.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <linux/sysfs.h>

#include "labnic.h"

static int knob_parse(const struct knob *k, const char *text, int *value)
{
	int i;

	if (!k->names) {
		if (kstrtoint(text, 0, value))
			return -EINVAL;
		return *value < 0 || *value > k->max ? -EINVAL : 0;
	}
	for (i = 0; i <= k->max; i++) {
		if (!strcmp(text, k->names[i])) {
			*value = i;
			return 0;
		}
	}
	return -EINVAL;
}

static int knob_set(const char *text, const struct kernel_param *kp)
{
	struct knob *k = kp->arg;
	int value[LABNIC_PORTS], n = 0, err = 0, i;
	char *copy, *rest;

	if (!text)
		return -EINVAL;
	copy = kstrdup(text, GFP_KERNEL);
	if (!copy)
		return -ENOMEM;
	rest = strim(copy);
	while (rest && !err)
		err = n < LABNIC_PORTS ? knob_parse(k, strsep(&rest, ","), &value[n++]) : -EINVAL;
	kfree(copy);
	if (err)
		return err;
	if (LABNIC_PORTS % n)
		return -EINVAL;

	for (i = 0; i < LABNIC_PORTS; i++)
		WRITE_ONCE(k->value[i], value[i % n]);
	if (k->changed)
		k->changed();
	return 0;
}

static int knob_get(char *buf, const struct kernel_param *kp)
{
	const struct knob *k = kp->arg;

	int i, len = 0;

	for (i = 0; i < LABNIC_PORTS; i++) {
		if (k->names)
			len += sysfs_emit_at(buf, len, "%s", k->names[k->value[i]]);
		else
			len += sysfs_emit_at(buf, len, "%d", k->value[i]);
		len += sysfs_emit_at(buf, len, i < LABNIC_PORTS - 1 ? "," : "\n");
	}
	return len;
}

static const struct kernel_param_ops knob_ops = { .set = knob_set, .get = knob_get };

static const char *const fault_names[] = {
	[FAULT_NONE] = "none",
	[FAULT_EOPNOTSUPP] = "eopnotsupp",
	[FAULT_EINVAL] = "einval",
	[FAULT_MUTE] = "mute",
	[FAULT_LYING] = "lying",
	[FAULT_FORGING] = "forging",
	[FAULT_DROP] = "drop",
	[FAULT_CORRUPT] = "corrupt",
};

struct knob knob_fault = { .max = FAULT_CORRUPT, .names = fault_names };
module_param_cb(fault, &knob_ops, &knob_fault, 0644);
MODULE_PARM_DESC(fault, "none|eopnotsupp|einval|mute|lying|forging|drop|corrupt");

struct knob knob_strict = { .value = { [0 ... LABNIC_PORTS - 1] = 1 }, .max = 1 };
module_param_cb(strict, &knob_ops, &knob_strict, 0644);
MODULE_PARM_DESC(strict, "1: refuse the SAs a ConnectX refuses; 0: take what the engine can do");

struct knob knob_esn = { .value = { [0 ... LABNIC_PORTS - 1] = 1 }, .max = 1 };
module_param_cb(esn, &knob_ops, &knob_esn, 0644);
MODULE_PARM_DESC(esn, "1: extended sequence numbers can be offloaded");

struct knob knob_max_sas = { .value = { [0 ... LABNIC_PORTS - 1] = 1024 }, .max = INT_MAX };
module_param_cb(max_sas, &knob_ops, &knob_max_sas, 0644);
MODULE_PARM_DESC(max_sas, "SAs the table holds, both directions together");

struct knob knob_link = {
	.value = { [0 ... LABNIC_PORTS - 1] = 1 }, .max = 1, .changed = labnic_update_carriers,
};
module_param_cb(link, &knob_ops, &knob_link, 0644);
MODULE_PARM_DESC(link, "0: no carrier, the cable is out");

struct knob knob_counters = { .value = { [0 ... LABNIC_PORTS - 1] = 1 }, .max = 1 };
module_param_cb(counters, &knob_ops, &knob_counters, 0644);
MODULE_PARM_DESC(counters, "0: no statistics for ethtool -S");

struct knob knob_switchable = { .max = 1, .changed = labnic_update_features };
module_param_cb(switchable, &knob_ops, &knob_switchable, 0644);
MODULE_PARM_DESC(switchable, "1: esp-hw-offload can be switched; 0: it is on and fixed");
