# Builds ipsec-secgw of DPDK's examples from Debian's source package, with what it needs and no
# more. The arguments are a directory to work in, the source of packages and the program to make.
set -eu
dir=$1 source=$2 program=$3
mkdir -p "$dir/lists/partial" "$dir/cache/archives/partial"
cd "$dir"
printf '%s\n' "$source" >sources.list
apt="-o Dir::Etc::sourcelist=$dir/sources.list -o Dir::Etc::sourceparts=/dev/null -o Dir::State::lists=$dir/lists -o Dir::Cache=$dir/cache -o APT::Sandbox::User=root"
# shellcheck disable=SC2086 # they are several words
apt-get -qq $apt update
# shellcheck disable=SC2086
apt-get -qq $apt source --download-only dpdk
rm -rf src build
dpkg-source -x dpdk_*.dsc src

# The null device hands out zeros, which no gateway takes for packets: have it hand out copies of the
# frame in a file. And it has no checksums to verify, which the gateway wants to hear from it.
null=src/drivers/net/null/rte_eth_null.c
sed -i '/rx_null_queues\[rx_queue_id\]\.dummy_packet = dummy_packet;/a\
	FILE *frame = fopen(getenv("NULL_FRAME"), "r");\
	if (frame == NULL || fread(dummy_packet, 1, packet_size, frame) != packet_size)\
		return -EIO;\
	fclose(frame);
/dev_info->min_rx_bufsize = 0;/a\
	dev_info->rx_offload_capa = RTE_ETH_RX_OFFLOAD_CHECKSUM;' $null
[ "$(grep -c 'NULL_FRAME\|RTE_ETH_RX_OFFLOAD_CHECKSUM' $null)" = 2 ] || { echo "the null device of this DPDK is another" >&2; exit 1; }

meson setup build src --buildtype=release --default-library=static -Dplatform=native -Dtests=false -Dexamples=ipsec-secgw \
	-Denable_drivers=bus/vdev,mempool/ring,net/null,crypto/ipsec_mb '-Ddisable_apps=*'
ninja -C build examples/dpdk-ipsec-secgw
mv build/examples/dpdk-ipsec-secgw "$program.new"
cat src/VERSION >"$program.version"
mv "$program.new" "$program"
