package deploy

import (
	"context"
	"errors"
	"strings"
	"testing"
)

// All hosts are tried, and those that let nobody in alone are told; this host needs no login.
func TestAlone(t *testing.T) {
	knock := func(err error) Host { return Host{Alone: func(context.Context) error { return err }} }
	if err := Alone(t.Context(), []Host{{}, knock(nil)}); err != nil {
		t.Error(err)
	}
	err := Alone(t.Context(), []Host{knock(errors.New("one")), {}, knock(nil), knock(errors.New("two"))})
	if err == nil || !strings.Contains(err.Error(), "one") || !strings.Contains(err.Error(), "two") {
		t.Error(err)
	}
}
