package cli

import (
	"context"
	"os"

	"espalier/remote"
	"espalier/verdict/verify"
)

// verifyReceipt is the operation by which one host asks another what an SA of its has received.
const verifyReceipt = "verify-receipt"

type receiptQuery struct {
	verify.Query
	SAD string `json:"sad"`
}

// askPeer asks at the other end of a connection.
func askPeer(conn *remote.Conn, sad string) func(context.Context, verify.Query) (verify.Receipt, error) {
	return func(ctx context.Context, q verify.Query) (verify.Receipt, error) {
		return remote.Call[verify.Receipt](ctx, conn, verifyReceipt, receiptQuery{q, sad}, nil)
	}
}

// answerReceipt is the other side of it.
func answerReceipt(ctx context.Context, q receiptQuery, _ remote.Progress) (verify.Receipt, error) {
	sad, e, err := openSAD(q.SAD)
	if err != nil {
		return verify.Receipt{}, err
	}
	defer e.Close()
	receipt, err := verify.Ask(ctx, e, sad.socket != "", q.Query)
	if err != nil {
		return receipt, err
	}
	receipt.SAD = sad.name()
	receipt.Host, err = os.Hostname()
	return receipt, err
}
