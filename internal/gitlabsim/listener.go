package gitlabsim

import (
	"net"
	"sync"
)

// listener resets connections while down and knows the open ones, so that it can reset those too.
type listener struct {
	net.Listener
	mu    sync.Mutex
	down  bool
	conns map[*conn]bool
}

func newListener(inner net.Listener) *listener {
	return &listener{Listener: inner, conns: map[*conn]bool{}}
}

type conn struct {
	net.Conn
	l *listener
}

func (c *conn) Close() error {
	c.l.mu.Lock()
	delete(c.l.conns, c)
	c.l.mu.Unlock()
	return c.Conn.Close()
}

func (l *listener) Accept() (net.Conn, error) {
	for {
		inner, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		l.mu.Lock()
		if l.down {
			l.mu.Unlock()
			reset(inner)
			continue
		}
		c := &conn{Conn: inner, l: l}
		l.conns[c] = true
		l.mu.Unlock()
		return c, nil
	}
}

func (l *listener) setDown(down bool) {
	l.mu.Lock()
	l.down = down
	l.mu.Unlock()
	if down {
		l.closeAll()
	}
}

func (l *listener) closeAll() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for c := range l.conns {
		reset(c.Conn)
		delete(l.conns, c)
	}
}

// reset closes with a RST, so that the client sees a reset and not an orderly end.
func reset(c net.Conn) {
	if t, ok := c.(*net.TCPConn); ok {
		_ = t.SetLinger(0)
	}
	_ = c.Close()
}
