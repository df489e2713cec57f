// Package aesgcm tests espalier/aesgcm beyond its own unit tests: every length and alignment
// against crypto/cipher, on memory that ends where the text ends, and batches of all kinds.
//
// Nothing here is linked that is not needed, so that the tests also run as the only program
// of an emulated machine, whose CPU has what this one lacks.
package aesgcm
