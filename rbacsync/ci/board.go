package ci

import (
	"context"
	"encoding/json"
	"log/slog"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/metadata"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/kubename"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync"
)

// Given is what a project was given last, for telling people. It is what is kept in its namespace, so each replica knows it.
type Given struct {
	Delivery rbacsync.Delivery // "": nothing yet
	Scope    string            // the environment
	Good     time.Time         // the end of the token in it; zero: there is none
	Written  time.Time         // when GitLab was written to last; zero: never
	Half     bool              // GitLab did not take all of it, or it was not known to when that was kept
	Foreign  []string          // keys of variables that somebody else has
	Other    bool              // another cluster has its variables or integration in the place of ours
}

// Board follows what projects were given. Its methods may be called at the same time.
type Board struct {
	log    *slog.Logger
	settle time.Duration // settleTime

	// mu guards all that follows: Run writes it, and whoever calls Of reads it.
	mu    sync.Mutex
	begun time.Time // of the first watch
	turn  int       // of the watch
	of    map[string]*posted
}

// posted is what is known of a namespace, and from which watch.
type posted struct {
	turn  int
	given map[int64]Given
}

// NewBoard returns a Board that knows nothing until it runs.
func NewBoard(log *slog.Logger) *Board {
	return &Board{log: log, settle: settleTime, of: map[string]*posted{}}
}

// settleTime is how long after its begin a watch is taken to have told all that there is.
const settleTime = 10 * time.Second

// Of returns what a project was given in a namespace. known is false while that may not have been told yet.
func (b *Board) Of(namespace string, project int64) (g Given, known bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if p := b.of[namespace]; p != nil {
		return p.given[project], true
	}
	return Given{}, !b.begun.IsZero() && time.Since(b.begun) > b.settle
}

// Run follows the Secrets until ctx ends: their metadata alone, in which there is no token. client must have no timeout. Watching one
// name needs no right to list Secrets.
func (b *Board) Run(ctx context.Context, client metadata.Interface) {
	warned := false
	wait.UntilWithContext(ctx, func(ctx context.Context) {
		w, err := client.Resource(corev1.SchemeGroupVersion.WithResource("secrets")).Namespace(metav1.NamespaceAll).
			Watch(ctx, metav1.ListOptions{FieldSelector: "metadata.name=" + kubename.CISecret})
		if err != nil {
			if ctx.Err() == nil && !warned {
				b.log.WarnContext(ctx, "what projects were given can't be followed, so people are not told of it; if it is forbidden, apply deploy/manifests again", "error", err)
				warned = true
			}
			return
		}
		defer w.Stop()
		turn, settled := b.begin(), time.NewTimer(b.settle)
		defer settled.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-settled.C:
				b.sweep(turn)
			case e, open := <-w.ResultChan():
				if !open {
					return
				}
				if s, ok := e.Object.(*metav1.PartialObjectMetadata); ok {
					b.post(s, turn, e.Type == watch.Deleted)
				}
			}
		}
	}, 5*time.Second)
}

// begin notes that a watch begins, which tells at first of all that there is.
func (b *Board) begin() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.begun.IsZero() {
		b.begun = time.Now()
	}
	b.turn++
	return b.turn
}

// sweep forgets what an earlier watch told and this one did not: it went between the two.
func (b *Board) sweep(turn int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for ns, p := range b.of {
		if p.turn < turn {
			delete(b.of, ns)
		}
	}
}

func (b *Board) post(s *metav1.PartialObjectMetadata, turn int, gone bool) {
	if s.Labels[kubename.LabelManagedBy] != kubename.ManagedBy {
		return
	}
	given := map[int64]Given{}
	if !gone {
		given = givenIn(s.Annotations[kubename.AnnotationCIProjects])
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.of[s.Namespace] = &posted{turn, given}
}

// givenIn reads what is kept on a Secret. Of what can't be read nothing is told.
func givenIn(text string) map[int64]Given {
	recs := map[int64]record{}
	_ = json.Unmarshal([]byte(text), &recs)
	out := make(map[int64]Given, len(recs))
	for project, r := range recs {
		g := Given{Delivery: r.Delivery, Scope: r.Scope, Written: r.Written, Half: r.half(), Foreign: slices.Clone(r.Foreign), Other: r.Other != nil}
		if r.Token != nil {
			g.Good = r.Token.Expires
		}
		out[project] = g
	}
	return out
}

// half reports whether something is noted that GitLab was to be told, and not that it has it.
func (r *record) half() bool {
	if len(r.Doubt) > 0 || len(r.Former) > 0 {
		return true
	}
	for key, sum := range r.Sums {
		if sum == "" && !slices.Contains(r.Foreign, key) {
			return true
		}
	}
	return false
}
