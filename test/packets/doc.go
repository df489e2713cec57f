// Package packets builds and reads IP and ESP packets byte by byte, from RFC 4303, RFC 4106,
// RFC 791, RFC 8200 and RFC 768 and the standard library's AES-GCM alone. It shares no code
// with the product: a mistake there is not repeated here. It also sends what no honest
// sender would.
package packets
