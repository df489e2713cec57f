package remote

import (
	"context"
	"encoding/json"
	"fmt"
)

// Progress tells the asker a line about what is being done. It may be called from several
// goroutines, and does nothing once the connection has ended.
type Progress func(line string)

// Operation answers a question. When ctx ends the answer is no longer wanted, or nobody is there
// to take it: the operation undoes what it must not leave, and returns.
type Operation func(ctx context.Context, question []byte, say Progress) (answer []byte, err error)

// Operations are what an end serves, by name.
type Operations map[string]Operation

// JSON makes an operation of a function whose question and answer travel as JSON.
func JSON[Q, A any](do func(context.Context, Q, Progress) (A, error)) Operation {
	return func(ctx context.Context, question []byte, say Progress) ([]byte, error) {
		var q Q
		if err := json.Unmarshal(question, &q); err != nil {
			return nil, fmt.Errorf("the question cannot be read: %w", err)
		}
		a, err := do(ctx, q, say)
		if err != nil {
			return nil, err
		}
		return json.Marshal(a)
	}
}

// Call asks for an operation made by [JSON]. say may be nil.
func Call[A, Q any](ctx context.Context, c *Conn, operation string, question Q, say Progress) (answer A, err error) {
	body, err := json.Marshal(question)
	if err != nil {
		return answer, err
	}
	b, err := c.Do(ctx, operation, body, say)
	if err != nil {
		return answer, err
	}
	if err := json.Unmarshal(b, &answer); err != nil {
		return answer, fmt.Errorf("%s: %s: the answer cannot be read: %w", c.Host(), operation, err)
	}
	return answer, nil
}

// Failure is an operation that ended with an error on the other end.
type Failure struct {
	Host      string
	Operation string
	Message   string
}

func (f *Failure) Error() string { return f.Host + ": " + f.Message }
