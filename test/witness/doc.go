// Package witness asks others whether what espalier does is ESP with AES-GCM: tshark reads the
// wire, Scapy is the peer of a device, Wycheproof's vectors are the judge of the cipher. None
// of them shares any code with this project.
package witness
