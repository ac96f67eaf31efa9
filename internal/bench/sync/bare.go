package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/gitlabsim"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/kubename"
)

// bare is the least that can take a right away: it gets the same hooks and writes, as the same ServiceAccount and with
// as many writes at the same time, what was prepared for the user that a hook names. It reads nothing and decides nothing.
type bare struct {
	kube        kubernetes.Interface
	concurrency int
	server      *http.Server
	running     sync.WaitGroup

	mu    sync.Mutex
	armed map[int64][]func(context.Context) error // by user
	err   error
}

// startBare registers a bare client at GitLab that writes to a cluster until ctx is done or stop is called.
func startBare(ctx context.Context, g *gitlabsim.Server, c *cluster, concurrency int) (*bare, error) {
	kube, err := kubernetes.NewForConfig(c.asIntegrator())
	if err != nil {
		return nil, err
	}
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	r := &bare{kube: kube, concurrency: concurrency, armed: map[int64][]func(context.Context) error{}}
	r.server = &http.Server{ReadHeaderTimeout: 10 * time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		var hook struct {
			User int64 `json:"user_id"`
		}
		if err := json.NewDecoder(http.MaxBytesReader(w, req.Body, 1<<20)).Decode(&hook); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		r.running.Go(func() { r.write(ctx, hook.User) })
		w.WriteHeader(http.StatusNoContent)
	})}
	r.running.Go(func() {
		if err := r.server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			r.fail(err)
		}
	})
	if _, err := g.AddSystemHook(gitlabsim.SeedHook{URL: "http://" + l.Addr().String() + "/", Token: hookSecret}); err != nil {
		return nil, errors.Join(err, r.stop())
	}
	return r, nil
}

// stop ends it and returns what went wrong.
func (r *bare) stop() error {
	err := r.server.Close()
	r.running.Wait()
	return errors.Join(err, r.failed())
}

// prepare makes what the next hook about a user writes: the RoleBindings without them.
func (r *bare) prepare(ctx context.Context, user int64, namespaces []string) error {
	var writes []func(context.Context) error
	isUser := func(s rbacv1.Subject) bool { return s.Kind == rbacv1.UserKind && s.Name == kubename.User(user) }
	for _, ns := range namespaces {
		list, err := r.kube.RbacV1().RoleBindings(ns).List(ctx, mine)
		if err != nil {
			return err
		}
		for i := range list.Items {
			rb := &list.Items[i]
			subjects := slices.DeleteFunc(slices.Clone(rb.Subjects), isUser)
			if len(subjects) == len(rb.Subjects) {
				continue
			}
			rb.Subjects = subjects
			writes = append(writes, func(ctx context.Context) error {
				_, err := r.kube.RbacV1().RoleBindings(ns).Update(ctx, rb, metav1.UpdateOptions{})
				return err
			})
		}
	}
	if len(writes) < len(namespaces) {
		return fmt.Errorf("user %d has %d RoleBindings in %d namespaces", user, len(writes), len(namespaces))
	}
	r.mu.Lock()
	r.armed[user] = writes
	r.mu.Unlock()
	return nil
}

// write does what was prepared for a user; nothing if that is nothing.
func (r *bare) write(ctx context.Context, user int64) {
	r.mu.Lock()
	writes := r.armed[user]
	delete(r.armed, user)
	r.mu.Unlock()
	var g errgroup.Group
	g.SetLimit(r.concurrency)
	for _, w := range writes {
		g.Go(func() error { return w(ctx) })
	}
	r.fail(g.Wait())
}

func (r *bare) fail(err error) {
	if err != nil {
		r.mu.Lock()
		r.err = errors.Join(r.err, fmt.Errorf("bare client: %w", err))
		r.mu.Unlock()
	}
}

func (r *bare) failed() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.err
}
