package boot

func (p *Place) EncapText(program string, port uint16) string { return p.encapText(program, port) }

var Prepare = prepare
