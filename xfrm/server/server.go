package server

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"espalier/ipsec"
)

// Server answers requests out of one database.
type Server struct {
	// PeerUID is the only user that is answered; 0, as it is unless changed, is root. Set
	// it before Serve.
	PeerUID uint32

	db      ipsec.Database
	log     *slog.Logger
	buffers sync.Pool // of requests; keys that were in them are wiped

	mu    sync.Mutex
	peers map[*peer]uint32 // who joined groups, and which: bit g-1 for group g

	watching sync.Mutex
	watch    bool // the database looks out for progress
}

// New makes a server in front of db. A nil log discards.
func New(db ipsec.Database, log *slog.Logger) *Server {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Server{db: db, log: log, peers: make(map[*peer]uint32), buffers: sync.Pool{New: func() any {
		b := make([]byte, maxRequest)
		return &b
	}}}
}

// acceptPause is the wait after an accept that failed for want of file descriptors.
const acceptPause = 50 * time.Millisecond

// Serve accepts connections until ctx ends, and then closes l (which removes its socket)
// and all connections, and waits for what it started. It returns nil if ctx ended it.
func (s *Server) Serve(ctx context.Context, l *net.UnixListener) error {
	ctx, cancel := context.WithCancel(ctx)
	var peers sync.WaitGroup
	defer func() {
		cancel()
		l.Close()
		peers.Wait()
	}()
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	if db, ok := s.db.(ipsec.Observable); ok {
		defer db.Observe(s.observe)()
	}
	for {
		conn, err := l.AcceptUnix()
		switch {
		case ctx.Err() != nil:
			if err == nil {
				conn.Close()
			}
			return nil
		case errors.Is(err, unix.EMFILE), errors.Is(err, unix.ENFILE), errors.Is(err, unix.ECONNABORTED):
			s.log.Warn("accept failed", "err", err)
			select {
			case <-time.After(acceptPause):
			case <-ctx.Done():
			}
		case err != nil:
			return err
		default:
			peers.Go(func() { s.servePeer(ctx, conn) })
		}
	}
}
