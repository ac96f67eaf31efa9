package httpserver

import (
	"container/list"
	"crypto/tls"
	"net"
	"net/http"
	"sync"
)

// conns bounds the open connections of one listener. When all are taken, the oldest one that has not brought a request yet
// gives way to the new one, else the one that has been idle longest; if all are at work, the new one is closed. So who
// holds connections keeps nobody out, and a client that has shown a certificate is the last to go.
type conns struct {
	net.Listener
	max int

	mu       sync.Mutex
	open     map[net.Conn]*list.Element
	silent   *list.List // no request yet, oldest first
	idle     *list.List // between requests, longest first
	at       map[net.Conn]*list.List
	rejected func() // for each connection that was closed for want of room
}

func newConns(l net.Listener, limit int, rejected func()) *conns {
	return &conns{
		Listener: l, max: limit, rejected: rejected, silent: list.New(), idle: list.New(),
		open: map[net.Conn]*list.Element{}, at: map[net.Conn]*list.List{},
	}
}

// Accept implements net.Listener.
func (c *conns) Accept() (net.Conn, error) {
	for {
		conn, err := c.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if c.enter(conn) {
			return conn, nil
		}
		_ = conn.Close() // refused
	}
}

// enter makes room for a connection; false: there is none.
func (c *conns) enter(conn net.Conn) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.open) >= c.max {
		if c.rejected != nil {
			c.rejected()
		}
		oldest := c.silent.Front()
		if oldest == nil {
			oldest = c.idle.Front()
		}
		if oldest == nil {
			return false
		}
		victim := oldest.Value.(net.Conn)
		c.forget(victim)
		_ = victim.Close() // its reader sees it
	}
	c.move(conn, c.silent)
	return true
}

// stateChanged is http.Server.ConnState.
func (c *conns) stateChanged(conn net.Conn, state http.ConnState) {
	if t, ok := conn.(*tls.Conn); ok {
		conn = t.NetConn()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, known := c.open[conn]; !known {
		return
	}
	switch state {
	case http.StateActive:
		c.move(conn, nil)
	case http.StateIdle:
		c.move(conn, c.idle)
	case http.StateClosed, http.StateHijacked:
		c.forget(conn)
	case http.StateNew: // as Accept left it
	}
}

// move puts a connection at the end of a list; nil: it is at work.
func (c *conns) move(conn net.Conn, to *list.List) {
	if from := c.at[conn]; from != nil {
		from.Remove(c.open[conn])
	}
	var e *list.Element
	if to != nil {
		e = to.PushBack(conn)
	}
	c.open[conn], c.at[conn] = e, to
}

func (c *conns) forget(conn net.Conn) {
	c.move(conn, nil)
	delete(c.open, conn)
	delete(c.at, conn)
}
