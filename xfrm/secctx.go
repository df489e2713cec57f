package xfrm

// SecCtx is struct xfrm_user_sec_ctx: what a Linux security module calls the traffic.
type SecCtx struct {
	DOI     uint8  // domain of interpretation: 1 is the LSMs' own
	Alg     uint8  // 1 is SELinux
	Context string // without the NUL it is sent with
}

// sizeSecCtx is without the context itself.
const sizeSecCtx = 8

func putSecCtx(p *payload, c *SecCtx) error {
	if c == nil {
		return nil
	}
	n := sizeSecCtx + len(c.Context) + 1
	if n > 4096 { // a page is the kernel's limit
		return invalid("security context of %d bytes", len(c.Context))
	}
	b := p.attr(attrSecCtx, n)
	host.PutUint16(b[0:], uint16(n))
	host.PutUint16(b[2:], attrSecCtx)
	b[4], b[5] = c.Alg, c.DOI
	host.PutUint16(b[6:], uint16(len(c.Context)+1))
	copy(b[sizeSecCtx:], c.Context)
	return nil
}

func getSecCtx(data []byte) (*SecCtx, error) {
	const name = "XFRMA_SEC_CTX"
	if err := need(name, data, sizeSecCtx); err != nil {
		return nil, err
	}
	n := int(host.Uint16(data[6:]))
	if err := need(name, data[sizeSecCtx:], n); err != nil {
		return nil, err
	}
	context := data[sizeSecCtx : sizeSecCtx+n]
	if n > 0 && context[n-1] == 0 {
		context = context[:n-1]
	}
	if len(context)+sizeSecCtx+1 > 4096 {
		return nil, invalid("%s: %d bytes", name, n)
	}
	return &SecCtx{Alg: data[4], DOI: data[5], Context: string(context)}, nil
}
