// Package httpserver runs the program's HTTP listeners: TLS with certificates that are reloaded when their files
// change, limits and timeouts on everything a client controls, and a shutdown that finishes what is under way.
// It is the only production package that imports gorilla/mux.
//
// It promises that a broken certificate file never replaces a working one, that no request is lost by a reload, that no
// accepted request loses its answer by a shutdown within ShutdownTimeout, and that a listener which demands client certificates does not start without
// a CA to check them, except on loopback. It knows nothing of what the handlers do, and limits no request body:
// that is each handler's own business, since it knows how large a request may be.
package httpserver

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/logsample"
)

// Options describe one listener. Zero durations and sizes mean their defaults.
type Options struct {
	// Name is the listener's name in logs and errors, e.g. "webhook".
	Name string
	// Listener is used if set, else Address is listened on ("127.0.0.1:0" for any free port).
	Listener net.Listener
	Address  string
	Handler  http.Handler
	Logger   *slog.Logger

	// CertFile and KeyFile are PEM files; both empty: plain HTTP.
	CertFile, KeyFile string
	// ClientCAFile is a PEM file with the CAs of client certificates. If set, each client must show one.
	ClientCAFile string
	// DemandClientCert refuses to start without TLS and ClientCAFile unless the listener is bound to loopback:
	// whoever reaches a webhook can test stolen tokens and read who may do what.
	DemandClientCert bool
	// ReloadInterval is how often the files are looked at. Default 2 s.
	ReloadInterval time.Duration

	ReadHeaderTimeout time.Duration // default 5 s
	ReadTimeout       time.Duration // default 15 s
	WriteTimeout      time.Duration // default 30 s
	IdleTimeout       time.Duration // default 3 min
	// DrainDelay is how long Run serves on after its end was asked for, while clients are asked to move away. Zero: not at all.
	DrainDelay time.Duration
	// ShutdownTimeout is how long Run then waits for running requests. Default 30 s.
	ShutdownTimeout time.Duration
	// MaxHeaderBytes limits request headers. Default 64 KiB.
	MaxHeaderBytes int
	// MaxConns limits open connections: when all are taken, silent and idle ones give way. Default 64.
	MaxConns int
	// MaxStreams limits the requests under way on one HTTP/2 connection. Default 16.
	MaxStreams int
	// Rejected, if not nil, is called for each connection that was closed for want of room (metrics).
	Rejected func()
}

// streamBuffer and connBuffer bound what is kept of the bodies that one HTTP/2 connection sends ahead of their reading. Go's
// own limit is 1 MiB for each.
const (
	streamBuffer = 64 << 10
	connBuffer   = 256 << 10
)

// Server is one listener, bound and ready to Run.
type Server struct {
	opts     Options
	listener *conns
	files    *files // nil: plain HTTP
	http     *http.Server
	draining atomic.Bool
}

// New loads the certificates and binds the address, so that what can go wrong at start does so here.
func New(opts Options) (_ *Server, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("starting the %s listener: %w", opts.Name, err)
			if opts.Listener != nil {
				err = errors.Join(err, opts.Listener.Close())
			}
		}
	}()
	if opts.Handler == nil {
		return nil, errors.New("no handler")
	}
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	opts.Logger = opts.Logger.With(slog.String("listener", opts.Name))
	if (opts.CertFile == "") != (opts.KeyFile == "") {
		return nil, errors.New("certificate and key: give both or neither")
	}
	if opts.CertFile == "" && opts.ClientCAFile != "" {
		return nil, errors.New("client certificates need TLS: give a certificate and a key too")
	}
	s := &Server{opts: opts}
	if opts.CertFile != "" {
		s.files = &files{cert: opts.CertFile, key: opts.KeyFile, clientCA: opts.ClientCAFile, log: opts.Logger}
		if err := s.files.load(); err != nil {
			return nil, err
		}
	}
	if opts.Listener == nil {
		var lc net.ListenConfig
		if opts.Listener, err = lc.Listen(context.Background(), "tcp", opts.Address); err != nil {
			return nil, fmt.Errorf("%w; is the port taken, or the address of another machine?", err)
		}
	}
	s.listener = newConns(opts.Listener, orDefault(opts.MaxConns, 64), opts.Rejected)
	if opts.DemandClientCert && opts.ClientCAFile == "" && !loopback(s.listener.Addr()) {
		return nil, fmt.Errorf("%s is not a loopback address, so clients must show a certificate: give the CA file of "+
			"kube-apiserver's client certificate (and a server certificate), or bind to 127.0.0.1", s.listener.Addr())
	}
	s.http = &http.Server{
		Handler:           withFarewell(s.draining.Load, withRequestID(withRecovery(opts.Logger, opts.Handler))),
		ReadHeaderTimeout: orDefault(opts.ReadHeaderTimeout, 5*time.Second),
		ReadTimeout:       orDefault(opts.ReadTimeout, 15*time.Second),
		WriteTimeout:      orDefault(opts.WriteTimeout, 30*time.Second),
		IdleTimeout:       orDefault(opts.IdleTimeout, 3*time.Minute),
		MaxHeaderBytes:    orDefault(opts.MaxHeaderBytes, 64<<10),
		ConnState:         s.listener.stateChanged,
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams: orDefault(opts.MaxStreams, 16), MaxReceiveBufferPerStream: streamBuffer, MaxReceiveBufferPerConnection: connBuffer,
		},
		// net/http writes failed handshakes here: of use when a client certificate is wrong, noise otherwise, and anybody
		// can make as many as they like.
		ErrorLog: log.New(&handshakes{log: opts.Logger}, "", 0),
	}
	if s.files != nil {
		s.http.TLSConfig = &tls.Config{MinVersion: tls.VersionTLS12, GetConfigForClient: s.tlsConfig}
	}
	return s, nil
}

// tlsConfig is tls.Config.GetConfigForClient: each new connection gets the present configuration. A late one may not choose
// HTTP/2: http.Server.Shutdown sends GOAWAY to those it knows; one whose handshake was not over could go on until it is cut off.
// HTTP/1.1 ends with its next answer.
func (s *Server) tlsConfig(*tls.ClientHelloInfo) (*tls.Config, error) {
	config := s.files.current.Load()
	if s.draining.Load() {
		config = config.Clone()
		config.NextProtos = []string{"http/1.1"}
	}
	return config, nil
}

// Addr is the bound address.
func (s *Server) Addr() net.Addr { return s.listener.Addr() }

// URL is the address as a URL, for logs and tests.
func (s *Server) URL() string {
	if s.files != nil {
		return "https://" + s.Addr().String()
	}
	return "http://" + s.Addr().String()
}

// Name is the listener's name.
func (s *Server) Name() string { return s.opts.Name }

// Ends returns when the certificates end that are in use now.
func (s *Server) Ends() Ends {
	if s.files == nil {
		return Ends{}
	}
	ends := *s.files.ends.Load()
	ends.Clients = s.files.clients.first()
	return ends
}

// Close gives the address back; for a Server that is never Run.
func (s *Server) Close() error { return s.listener.Close() }

// Run serves until ctx ends and for DrainDelay after that, then takes no new requests, finishes the running ones within
// ShutdownTimeout, and returns nil. It returns an error if serving fails or if requests had to be cut off.
func (s *Server) Run(ctx context.Context) error {
	ended := make(chan error, 1)
	go func() {
		if s.files != nil {
			ended <- s.http.ServeTLS(s.listener, "", "")
			return
		}
		ended <- s.http.Serve(s.listener)
	}()
	s.opts.Logger.LogAttrs(ctx, slog.LevelInfo, "listening", slog.String("url", s.URL()))

	ticker := time.NewTicker(orDefault(s.opts.ReloadInterval, 2*time.Second))
	defer ticker.Stop()
	done, drained := ctx.Done(), (<-chan time.Time)(nil)
	for {
		select {
		case err := <-ended:
			return fmt.Errorf("serving the %s listener: %w", s.opts.Name, err)
		case <-ticker.C:
			if s.files != nil {
				s.files.reload(ctx)
			}
		case <-done:
			s.opts.Logger.LogAttrs(ctx, slog.LevelInfo, "ending: serving on while clients move away", slog.Duration("drainDelay", s.opts.DrainDelay))
			s.draining.Store(true)
			done, drained = nil, time.After(s.opts.DrainDelay)
		case <-drained:
			grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), orDefault(s.opts.ShutdownTimeout, 30*time.Second))
			defer cancel()
			err := s.http.Shutdown(grace)
			if err != nil {
				err = fmt.Errorf("stopping the %s listener: cutting off running requests: %w", s.opts.Name, errors.Join(err, s.http.Close()))
			}
			<-ended //nolint:errcheck // it says that the server was closed
			return err
		}
	}
}

// handshakes takes the lines of net/http, and lets one per second through.
type handshakes struct {
	log   *slog.Logger
	lines logsample.Lines
}

// Write implements io.Writer.
func (h *handshakes) Write(line []byte) (int, error) {
	if n, ok := h.lines.Allow(time.Now()); ok {
		h.log.LogAttrs(context.Background(), slog.LevelInfo, "connection failed", slog.String("error", strings.TrimSpace(string(line))), slog.Int64("suppressed", n))
	}
	return len(line), nil
}

func loopback(addr net.Addr) bool {
	tcp, ok := addr.(*net.TCPAddr)
	return ok && tcp.IP.IsLoopback()
}

func orDefault[T comparable](v, standard T) T {
	var zero T
	if v == zero {
		return standard
	}
	return v
}
