// Package tun is a Linux TUN device with one or more queues and the virtio_net_hdr
// offloads: partial checksums, and TCP and UDP segmentation (linux/if_tun.h, linux/virtio_net.h).
//
// What flows in: [Queue.Read] hands over one frame as the kernel's stack sent it, at
// most 64 KiB of TCP or UDP with the checksum left undone. [Frame.Segmenter] lays it out as
// the IP packets a network card would put on the wire (RFC 791, RFC 8200, RFC 9293),
// each written once, straight to where the caller wants it.
// What flows out: [Queue.Write] hands one frame, segmented or not, to the stack.
//
// Buffers belong to the caller. A Frame and a Segmenter point into the buffer given to
// Read and are good until that buffer is used again. Write takes the packet with
// [HeaderLen] free bytes in front of it, so that it goes out in one call uncopied.
package tun
