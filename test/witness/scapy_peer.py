"""A peer made of Scapy: it speaks ESP with AES-GCM to whoever is at the other end of a cable.

The argument is the name of the cable's end. Says "ready" once it listens there; then reads
one JSON job a line from stdin and answers with one JSON object a line on stdout. Needs
CAP_NET_RAW, Scapy 2.5 and python3-cryptography. Keys come with the job, never in argv.

A job:
  src, dst  addresses: of this peer, of the other
  out, in   SAs from and to this peer: {"spi": number, "key": hex, with the salt}
  tunnel, udp, esn   booleans; high is the upper half of the sequence numbers with esn
  id        identifier of the echo requests to send
  payloads  what to send in them, hex; all are sent at once
  answer    how many echo requests of the other to answer
  timeout   seconds to wait for all of that

The answer:
  replies   what came back, decrypted: {"id", "seq", "payload", "esp_seq"}
  requests  echo requests of the other, decrypted, likewise
  errors    packets of the SA that did not decrypt, or were not what they claim to be
"""

import json
import select
import socket
import sys
import time

from scapy.layers.inet import ICMP, IP, UDP
from scapy.layers.inet6 import ICMPv6EchoReply, ICMPv6EchoRequest, IPv6
from scapy.layers.ipsec import ESP, SecurityAssociation
from scapy.packet import Raw

ESP_PORT = 4500  # RFC 3948
PACKET_OUTGOING = 4
ETH_P_ALL = 3


class Peer:
    def __init__(self, job):
        self.job = job
        self.v6 = ":" in job["src"]
        self.src, self.dst = job["src"], job["dst"]
        self.outbound = self.association(job["out"], self.src, self.dst)
        self.inbound = self.association(job["in"], self.dst, self.src)
        self.result = {"replies": [], "requests": [], "errors": []}

    def ip(self, src, dst, **fields):
        return (IPv6 if self.v6 else IP)(src=src, dst=dst, **fields)

    def association(self, sa, src, dst):
        return SecurityAssociation(
            ESP, spi=sa["spi"], crypt_algo="AES-GCM", crypt_key=bytes.fromhex(sa["key"]),
            tunnel_header=self.ip(src, dst) if self.job["tunnel"] else None,
            esn_en=self.job["esn"], esn=self.job["high"])

    # Echo messages: requests go out, both come in.

    def request(self, seq, payload):
        if self.v6:
            echo = ICMPv6EchoRequest(id=self.job["id"], seq=seq, data=payload)
        else:
            echo = ICMP(type=8, id=self.job["id"], seq=seq) / Raw(payload)
        return self.ip(self.src, self.dst) / echo

    def answer(self, echo):
        payload = bytes.fromhex(echo["payload"])
        if self.v6:
            reply = ICMPv6EchoReply(id=echo["id"], seq=echo["seq"], data=payload)
        else:
            reply = ICMP(type=0, id=echo["id"], seq=echo["seq"]) / Raw(payload)
        return self.ip(self.src, self.dst) / reply

    def read_echo(self, packet):
        """The kind of an echo message, and its fields."""
        if (packet.src, packet.dst) != (self.dst, self.src):
            raise ValueError("inner addresses %s, %s" % (packet.src, packet.dst))
        if self.v6:
            kinds = {128: "requests", 129: "replies"}
            icmp = packet.payload
            payload = bytes(icmp.data)
        else:
            kinds = {8: "requests", 0: "replies"}
            icmp = packet[ICMP]
            payload = bytes(icmp.payload)
        kind = kinds[icmp.type]
        given = icmp.cksum if self.v6 else icmp.chksum
        again = packet.copy()
        if self.v6:
            del again.payload.cksum
            computed = IPv6(bytes(again)).payload.cksum
        else:
            del again[ICMP].chksum
            computed = IP(bytes(again))[ICMP].chksum
        if given != computed:
            raise ValueError("ICMP checksum %#x, should be %#x" % (given, computed))
        return kind, {"id": icmp.id, "seq": icmp.seq, "payload": payload.hex()}

    # ESP. Scapy's own UDP encapsulation writes a wrong length: it is added and stripped here.

    def protect(self, packet):
        packet = self.outbound.encrypt(packet)
        if not self.job["udp"]:
            return bytes(packet)
        esp = bytes(packet[ESP])
        outer = self.ip(packet.src, packet.dst)
        udp = UDP(sport=ESP_PORT, dport=ESP_PORT)
        if not self.v6:
            udp.chksum = 0
        return bytes(outer / udp / Raw(esp))

    def unprotect(self, data):
        """The inner packet and its sequence number; None for what is not of the SA."""
        outer = (IPv6 if self.v6 else IP)(data)
        number = outer.nh if self.v6 else outer.proto
        header = 40 if self.v6 else 4 * outer.ihl
        total = 40 + outer.plen if self.v6 else outer.len
        body = data[header:total]
        if number != (17 if self.job["udp"] else 50):
            return None
        if self.job["udp"]:
            udp = UDP(body[:8])
            if (udp.sport, udp.dport, udp.len) != (ESP_PORT, ESP_PORT, len(body)):
                raise ValueError("UDP header %r of %d bytes" % (udp, len(body)))
            body = body[8:]
        if int.from_bytes(body[:4], "big") != self.job["in"]["spi"]:
            return None
        again = self.ip(outer.src, outer.dst)
        if self.v6:
            again.nh = 50
        else:
            again.proto = 50
        packet = type(outer)(bytes(again / Raw(body)))
        return self.inbound.decrypt(packet), int.from_bytes(body[4:8], "big")

    def receive(self, data, sender):
        if data[:1] and data[0] >> 4 != (6 if self.v6 else 4):
            return
        try:
            got = self.unprotect(data)
            if got is None:
                return
            packet, esp_seq = got
            kind, echo = self.read_echo(packet)
        except Exception as err:  # whatever Scapy says is the verdict
            self.result["errors"].append("%s: %s" % (type(err).__name__, err))
            return
        echo["esp_seq"] = esp_seq
        self.result[kind].append(echo)
        if kind == "requests":
            sender(self.protect(self.answer(echo)))

    def done(self):
        return (len(self.result["replies"]) >= len(self.job["payloads"])
                and len(self.result["requests"]) >= self.job["answer"])


class Cable:
    """The sockets: a tap, one for whole IP packets of each family, and some that only keep
    the kernel from complaining to the other about ESP that it does not know."""

    def __init__(self, device):
        self.tap = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ETH_P_ALL))
        self.tap.bind((device, ETH_P_ALL))
        self.raw = {
            False: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW),
            True: socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_RAW),
        }
        self.quiet = [socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_ESP)
                      for family in (socket.AF_INET, socket.AF_INET6)]
        port = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        port.bind(("::", ESP_PORT))
        self.quiet.append(port)

    def run(self, peer):
        def sender(data):
            self.raw[peer.v6].sendto(data, (peer.dst, 0))

        for seq, payload in enumerate(peer.job["payloads"], 1):
            sender(peer.protect(peer.request(seq, bytes.fromhex(payload))))
        deadline = time.monotonic() + peer.job["timeout"]
        while not peer.done():
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self.tap], [], [], left)[0]:
                break
            data, address = self.tap.recvfrom(1 << 16)
            if address[2] != PACKET_OUTGOING:
                peer.receive(data, sender)
        return peer.result


def main():
    cable = Cable(sys.argv[1])
    print("ready", flush=True)
    for line in sys.stdin:
        print(json.dumps(cable.run(Peer(json.loads(line)))), flush=True)


main()
