package app

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/restmapper"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/config"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/explain"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/explain/live"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/kubeerror"
)

// Asking is what `explain` and `who` are asked.
type Asking struct {
	User      string // user name, id or gitlab:ID; empty: `who`
	Namespace string
	// Verb, Resource ("deployments.apps/scale", short names too) and Name are the request; Verb is empty where no request is meant.
	Verb, Resource, Name string
	Output               string // text or json
}

// Explain prints what somebody may do in a namespace, and why.
func Explain(ctx context.Context, cfg *config.Config, log io.Writer, out io.Writer, a Asking) error {
	x, err := newExplainer(ctx, cfg)
	if err != nil {
		return err
	}
	user, err := live.UserNamed(a.User, x.View.Snapshot)
	if err != nil {
		return err
	}
	q := authz.Question{Namespace: a.Namespace, Verb: a.Verb, Name: a.Name}
	if a.Verb != "" {
		var warning string
		q.Group, q.Resource, q.Subresource, warning = resourceOf(x.Kube, a.Resource)
		if warning != "" {
			fmt.Fprintln(log, warning)
		}
	}
	r := x.Explain(ctx, user, q, time.Now())
	return printed(out, a.Output, r, r.Text)
}

// Who prints everybody with a right in a namespace.
func Who(ctx context.Context, cfg *config.Config, out io.Writer, a Asking) error {
	x, err := newExplainer(ctx, cfg)
	if err != nil {
		return err
	}
	w := x.Who(ctx, a.Namespace, time.Now())
	return printed(out, a.Output, w, w.Text)
}

func printed(out io.Writer, form string, v any, text func() string) error {
	if form == "json" {
		e := json.NewEncoder(out)
		e.SetIndent("", "  ")
		return e.Encode(v)
	}
	_, err := io.WriteString(out, text())
	return err
}

// newExplainer reads what the leader has stored, and the ClusterRoles.
func newExplainer(ctx context.Context, cfg *config.Config) (*live.Explainer, error) {
	c, err := connect(cfg)
	if err != nil {
		return nil, err
	}
	policy, err := cfg.Authz.Policy()
	if err != nil {
		return nil, err
	}
	st, _, err := snapshotsOf(c).Load(ctx, "")
	switch {
	case err != nil:
		return nil, kubeerror.Explain(fmt.Errorf("reading what the integrator has stored of GitLab: %w", err))
	case st == nil:
		return nil, errors.New("the integrator has stored nothing of GitLab in this cluster yet: start serve, and see `gl-k8s-integrator status`")
	}
	reader, err := newRoles(cfg, c)
	if err != nil {
		return nil, err
	}
	roles := reader.Look(ctx)
	return &live.Explainer{
		Kube: c.kube, Roles: roles, Basis: explain.Basis{Read: st.Snapshot.Taken, Mode: cfg.RBACSync.Mode},
		View: live.WithRoles(authz.NewView(st.Snapshot, policy, st.Names).WithGaps(st.Gaps), roles),
	}, nil
}

// resourceOf reads "pods", "deploy", "deployments.apps/scale" as kubectl does: kube-apiserver knows short names and groups. What
// it does not know is taken as it is written, with a warning.
func resourceOf(kube kubernetes.Interface, text string) (group, resource, subresource, warning string) {
	text, subresource, _ = strings.Cut(strings.ToLower(text), "/")
	as := schema.ParseGroupResource(text)
	groups, err := restmapper.GetAPIGroupResources(kube.Discovery())
	if err != nil {
		return as.Group, as.Resource, subresource, fmt.Sprintf("which resources there are could not be read (%v): %q is taken as it is written", err, text)
	}
	mapper := restmapper.NewShortcutExpander(restmapper.NewDiscoveryRESTMapper(groups), kube.Discovery(), nil)
	got, err := mapper.ResourceFor(as.WithVersion(""))
	if err != nil {
		return as.Group, as.Resource, subresource, fmt.Sprintf("kube-apiserver has no resource %q: it is taken as it is written", text)
	}
	return got.Group, got.Resource, subresource, ""
}
