package ci

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	authnv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	"golang.org/x/sync/errgroup"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/kubename"
)

// AnnotationDelivered is on the Secret of the token: a digest of what the GitLab project was given.
const AnnotationDelivered = "gl-k8s-integrator.io/delivered"

// Defaults of a Provisioner.
const (
	DefaultLifetime = 90 * 24 * time.Hour
	DefaultRecheck  = 5 * time.Minute
)

// Namespace is a managed namespace, as far as CI credentials are concerned.
type Namespace struct {
	Name    string
	Source  authz.SourceID
	Account types.UID // of the CI ServiceAccount, "" when it was made just now
	// Gone is set when no source should have this namespace any more: its token is destroyed, and its variables
	// are taken back if the GitLab project still Exists.
	Gone   bool
	Exists bool
}

// Provisioner keeps tokens fresh and delivered. Its methods may be called at the same time.
type Provisioner struct {
	Kube     kubernetes.Interface
	Delivery Delivery // nil: tokens stay in the cluster
	Cluster  Cluster
	Scope    string        // environment scope of the variables; a changed one is delivered again
	Lifetime time.Duration // asked for; the API server may give less. 0: DefaultLifetime
	// Unprotected holds the ids of projects whose variables jobs on unprotected branches get too. Everybody who can
	// push a branch there can deploy.
	Unprotected map[int64]bool
	// Recheck is how long a Secret that was found in order is not looked at again. 0: DefaultRecheck
	Recheck     time.Duration
	Concurrency int // namespaces at the same time; default 4
	Now         func() time.Time
	Logger      *slog.Logger

	mu      sync.Mutex
	checked map[string]checked // by namespace
}

// checked is what is remembered of a Secret that was in order.
type checked struct {
	namespace Namespace
	until     time.Time
}

// Report is what one call of Provision did.
type Report struct {
	Issued    int // new tokens
	Delivered int // projects that were written to
	Findings  []authz.Finding
}

// Provision brings the Secrets and the variables of all these namespaces in order. What fails is in the report
// and is tried again at the next call.
func (p *Provisioner) Provision(ctx context.Context, namespaces []Namespace) Report {
	var mu sync.Mutex
	var report Report
	var g errgroup.Group
	g.SetLimit(p.concurrency())
	for _, n := range namespaces {
		if p.inOrder(n) {
			continue
		}
		g.Go(func() error {
			if ctx.Err() != nil {
				return nil //nolint:nilerr // the caller knows its own context
			}
			issued, delivered, err := p.provision(ctx, n)
			mu.Lock()
			defer mu.Unlock()
			if issued {
				report.Issued++
			}
			if delivered {
				report.Delivered++
			}
			if err != nil {
				code := "ci_token_failed"
				if de := (*deliveryError)(nil); errors.As(err, &de) {
					code = "ci_delivery_failed"
				}
				p.log().WarnContext(ctx, "CI credentials not in order", "namespace", n.Name, "source", n.Source.String(), "error", err)
				report.Findings = append(report.Findings, authz.Finding{Code: code, Source: n.Source, Text: err.Error()})
			}
			return nil
		})
	}
	_ = g.Wait() // failures are findings
	p.forget(namespaces)
	slices.SortFunc(report.Findings, func(a, b authz.Finding) int {
		if c := a.Source.Compare(b.Source); c != 0 {
			return c
		}
		return strings.Compare(a.Text, b.Text)
	})
	return report
}

// RotateNamespace destroys the namespace's token at once and makes and delivers a new one: for when somebody who
// could read it has lost the right to deploy. (Replacing the token in the Secret would leave the old one alive.)
func (p *Provisioner) RotateNamespace(ctx context.Context, n Namespace) error {
	p.drop(n.Name)
	s, err := p.secret(ctx, n.Name)
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("rotating the CI token of namespace %s: %w", n.Name, err)
	}
	if err == nil {
		if err := p.destroy(ctx, s); err != nil {
			return fmt.Errorf("rotating the CI token of namespace %s: %w", n.Name, err)
		}
	}
	_, _, err = p.provision(ctx, n)
	return err
}

// deliveryError is a failure on GitLab's side.
type deliveryError struct{ error }

func (e *deliveryError) Unwrap() error { return e.error }

func (p *Provisioner) provision(ctx context.Context, n Namespace) (issued, delivered bool, err error) {
	if n.Gone {
		return false, false, p.withdraw(ctx, n)
	}
	s, err := p.secret(ctx, n.Name)
	if apierrors.IsNotFound(err) {
		s, err = p.Kube.CoreV1().Secrets(n.Name).Create(ctx, &corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{Name: kubename.CISecret, Namespace: n.Name, Labels: map[string]string{kubename.LabelManagedBy: kubename.ManagedBy}},
			Type:       corev1.SecretTypeOpaque,
		}, metav1.CreateOptions{})
	}
	if err != nil {
		return false, false, fmt.Errorf("making Secret %s/%s: %w", n.Name, kubename.CISecret, err)
	}
	if why := stale(s, n.Account, p.Cluster, p.Now()); why != "" {
		if s, err = p.issue(ctx, s); err != nil {
			return false, false, err
		}
		issued = true
		p.log().InfoContext(ctx, "CI token issued", "namespace", n.Name, "source", n.Source.String(), "why", why, "expires", string(s.Data[keyExpires]))
	}
	if p.Delivery != nil && n.Source.Kind == authz.ProjectSource {
		if delivered, err = p.deliver(ctx, n, s); err != nil {
			return issued, false, err
		}
	}
	p.remember(n, s)
	return issued, delivered, nil
}

// secret reads the Secret of a namespace; one without our mark is an error, because it belongs to somebody else.
func (p *Provisioner) secret(ctx context.Context, ns string) (*corev1.Secret, error) {
	s, err := p.Kube.CoreV1().Secrets(ns).Get(ctx, kubename.CISecret, metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	if s.Labels[kubename.LabelManagedBy] != kubename.ManagedBy || s.Type != corev1.SecretTypeOpaque {
		return nil, fmt.Errorf("it exists without our owner mark or is not Opaque: delete Secret %s/%s if nothing else needs it", ns, kubename.CISecret)
	}
	return s, nil
}

// issue requests a token bound to the Secret and stores it there. The token before stays valid until it expires,
// so that jobs which have it go on.
func (p *Provisioner) issue(ctx context.Context, s *corev1.Secret) (*corev1.Secret, error) {
	life := p.Lifetime
	if life <= 0 {
		life = DefaultLifetime
	}
	seconds := int64(life.Seconds())
	now := p.Now()
	tr, err := p.Kube.CoreV1().ServiceAccounts(s.Namespace).CreateToken(ctx, kubename.CIServiceAccount, &authnv1.TokenRequest{
		Spec: authnv1.TokenRequestSpec{
			ExpirationSeconds: &seconds,
			BoundObjectRef:    &authnv1.BoundObjectReference{Kind: "Secret", APIVersion: "v1", Name: s.Name, UID: s.UID},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		return nil, fmt.Errorf("requesting a token of ServiceAccount %s/%s: %w", s.Namespace, kubename.CIServiceAccount, err)
	}
	expires := tr.Status.ExpirationTimestamp.Time
	s = s.DeepCopy()
	if s.Annotations == nil {
		s.Annotations = map[string]string{}
	}
	s.Annotations[kubename.AnnotationRotateAt] = now.Add(expires.Sub(now) * 8 / 10).UTC().Format(time.RFC3339)
	s.Data = map[string][]byte{
		keyToken: []byte(tr.Status.Token), keyCA: p.Cluster.CA, keyNamespace: []byte(s.Namespace),
		keyExpires: []byte(expires.UTC().Format(time.RFC3339)),
	}
	return p.store(ctx, s)
}

// store writes the Secret; the resourceVersion in it makes the write conflict when somebody else was faster.
func (p *Provisioner) store(ctx context.Context, s *corev1.Secret) (*corev1.Secret, error) {
	s, err := p.Kube.CoreV1().Secrets(s.Namespace).Update(ctx, s, metav1.UpdateOptions{})
	if err != nil {
		return nil, fmt.Errorf("writing Secret %s: %w", kubename.CISecret, err)
	}
	return s, nil
}

func (p *Provisioner) deliver(ctx context.Context, n Namespace, s *corev1.Secret) (bool, error) {
	project := n.Source.ID
	vars, err := Variables(p.Cluster, n.Name, string(s.Data[keyToken]), !p.Unprotected[project])
	if err != nil {
		return false, err
	}
	sum := digest(project, p.Scope, vars)
	if s.Annotations[AnnotationDelivered] == sum {
		return false, nil
	}
	changed, err := p.Delivery.Deliver(ctx, project, vars)
	if err != nil {
		return false, &deliveryError{fmt.Errorf("delivering CI credentials to GitLab project %d: %w", project, err)}
	}
	s = s.DeepCopy()
	s.Annotations[AnnotationDelivered] = sum
	if _, err := p.store(ctx, s); err != nil {
		return true, err
	}
	p.log().InfoContext(ctx, "CI credentials delivered", "namespace", n.Name, "source", n.Source.String(), "changed", changed)
	return true, nil
}

// withdraw takes the variables back and destroys the token of a namespace that no source should have.
func (p *Provisioner) withdraw(ctx context.Context, n Namespace) error {
	s, err := p.secret(ctx, n.Name)
	if apierrors.IsNotFound(err) {
		p.remember(n, nil)
		return nil
	}
	if err != nil {
		return fmt.Errorf("reading Secret %s/%s: %w", n.Name, kubename.CISecret, err)
	}
	if p.Delivery != nil && n.Exists && n.Source.Kind == authz.ProjectSource && s.Annotations[AnnotationDelivered] != "" {
		if err := p.Delivery.Withdraw(ctx, n.Source.ID); err != nil {
			// The token dies all the same; what is left in GitLab is worth nothing.
			p.log().WarnContext(ctx, "CI variables could not be taken back", "source", n.Source.String(), "error", err)
		}
	}
	if err := p.destroy(ctx, s); err != nil {
		return err
	}
	p.log().InfoContext(ctx, "CI token destroyed", "namespace", n.Name, "source", n.Source.String())
	p.remember(n, nil)
	return nil
}

func (p *Provisioner) destroy(ctx context.Context, s *corev1.Secret) error {
	err := p.Kube.CoreV1().Secrets(s.Namespace).Delete(ctx, s.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &s.UID}})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("deleting Secret %s/%s: %w", s.Namespace, s.Name, err)
	}
	return nil
}

func (p *Provisioner) log() *slog.Logger {
	if p.Logger != nil {
		return p.Logger
	}
	return slog.New(slog.DiscardHandler)
}

func (p *Provisioner) concurrency() int {
	if p.Concurrency > 0 {
		return p.Concurrency
	}
	return 4
}

// inOrder reports whether the namespace was found in order a short time ago.
func (p *Provisioner) inOrder(n Namespace) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	c, ok := p.checked[n.Name]
	if ok && c.namespace.Account == "" { // it was new then; now its uid is known
		c.namespace.Account = n.Account
	}
	return ok && c.namespace == n && p.Now().Before(c.until)
}

// remember notes that the namespace is in order until it is time to look again. s is nil when it has no Secret.
func (p *Provisioner) remember(n Namespace, s *corev1.Secret) {
	recheck := p.Recheck
	if recheck <= 0 {
		recheck = DefaultRecheck
	}
	until := p.Now().Add(recheck)
	if s != nil {
		if rotate, err := time.Parse(time.RFC3339, s.Annotations[kubename.AnnotationRotateAt]); err == nil && rotate.Before(until) {
			until = rotate
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.checked == nil {
		p.checked = map[string]checked{}
	}
	p.checked[n.Name] = checked{n, until}
}

// Changed says that somebody may have changed the Secret of a namespace: the next Provision looks at it.
func (p *Provisioner) Changed(ns string) { p.drop(ns) }

func (p *Provisioner) drop(ns string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.checked, ns)
}

// forget drops what is remembered of namespaces that are not in the list any more.
func (p *Provisioner) forget(present []Namespace) {
	keep := make(map[string]bool, len(present))
	for _, n := range present {
		keep[n.Name] = true
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for name := range p.checked {
		if !keep[name] {
			delete(p.checked, name)
		}
	}
}
