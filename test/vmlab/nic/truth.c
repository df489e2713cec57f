// SPDX-License-Identifier: GPL-2.0
/*
 * What the engine has really done, for who judges those that judge by its
 * counters: debugfs labnic/truth has a line for each SA in the table. No fault
 * changes what it says.
 */
#include <linux/debugfs.h>
#include <linux/rculist.h>
#include <linux/rtnetlink.h>
#include <linux/seq_file.h>

#include "labnic.h"

static struct dentry *dir;

static int truth_show(struct seq_file *s, void *unused)
{
	struct sa *sa;
	int i;

	rtnl_lock();
	rcu_read_lock();
	for (i = 0; i < LABNIC_PORTS; i++) {
		if (!labnic_ports[i])
			continue;
		list_for_each_entry_rcu(sa, &labnic_ports[i]->sas, list)
			seq_printf(s, "%d %s 0x%08x %lld %lld %lld\n", i, sa->inbound ? "in" : "out",
				   ntohl(sa->spi), atomic64_read(&sa->encrypted),
				   atomic64_read(&sa->untouched), atomic64_read(&sa->refused));
	}
	rcu_read_unlock();
	rtnl_unlock();
	return 0;
}
DEFINE_SHOW_ATTRIBUTE(truth);

/* Without debugfs there is no truth to be had: no reason to be without a NIC. */
void labnic_truth_start(void)
{
	dir = debugfs_create_dir(KBUILD_MODNAME, NULL);
	debugfs_create_file("truth", 0400, dir, NULL, &truth_fops);
}

void labnic_truth_stop(void)
{
	debugfs_remove(dir);
}
