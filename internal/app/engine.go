package app

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/deploy"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/config"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/gitlab"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/kubename"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/store"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/cluster"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/intake"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/syncer"
)

// newReader returns the reader of GitLab with the token that only reads.
func newReader(cfg *config.Config, client *http.Client, log *slog.Logger) (*gitlab.Reader, error) {
	r, err := gitlab.NewReader(gitlab.Options{
		BaseURL: cfg.GitLab.URL, Token: secretFile(cfg.GitLab.ReadTokenFile, "gitlab.readTokenFile"),
		HTTPClient: client, Logger: log, IncludeUsers: true, CIVariables: shownVariables(cfg),
	})
	if err != nil {
		return nil, fmt.Errorf("setting up the reader of GitLab: %w", err)
	}
	return r, nil
}

// newRoles returns the reader of the ClusterRoles that are configured, and of that of CI jobs.
func newRoles(cfg *config.Config, c *clients) (*cluster.RoleReader, error) {
	policy, err := cfg.Authz.Policy()
	if err != nil {
		return nil, err
	}
	return cluster.NewRoleReader(c.kube, append(policy.ClusterRoles(), kubename.CIClusterRole)...), nil
}

// engineParts are what makes the engine of `serve` another than that of one round. Reader, Roles and Fence are required.
type engineParts struct {
	mode     syncer.Mode
	reader   *gitlab.Reader
	roles    *cluster.RoleReader
	fence    func(context.Context) error
	progress func(cluster.Progress)
	may      func() error // see cluster.ApplyOptions.May
	inbox    syncer.Inbox
	poller   intake.Poller
	recent   func() map[int64]time.Time
	onRound  func(syncer.Round)
	written  func(syncer.Written)
	wrap     func(intake.Reader) intake.Reader // nil: GitLab is read as it is
	recorded bool                              // a syncer.Recording is made, which needs Options.Observe
}

// rules returns what the configuration says of rights and namespaces: what a plan is made by, whatever it is made from.
func rules(cfg *config.Config, log *slog.Logger) (syncer.Options, error) {
	policy, err := cfg.Authz.Policy()
	if err != nil {
		return syncer.Options{}, err
	}
	set, err := settings(cfg)
	if err != nil {
		return syncer.Options{}, err
	}
	jobRules, err := deploy.RulesOf(kubename.CIClusterRole)
	if err != nil {
		return syncer.Options{}, err
	}
	return syncer.Options{
		Policy: policy, Settings: set, Reserved: cfg.Authz.ReservedNames, Limits: limits(cfg),
		Shipped: map[string][]rbacv1.PolicyRule{kubename.CIClusterRole: jobRules}, Logger: log,
	}, nil
}

// newEngine puts the engine together.
func newEngine(cfg *config.Config, c *clients, log *slog.Logger, p engineParts) (*syncer.Syncer, error) {
	o, err := engineOptions(cfg, c, log, p)
	if err != nil {
		return nil, err
	}
	return syncer.New(o)
}

// engineOptions returns the options of an engine, whole.
func engineOptions(cfg *config.Config, c *clients, log *slog.Logger, p engineParts) (syncer.Options, error) {
	r, err := rules(cfg, log)
	if err != nil {
		return syncer.Options{}, err
	}
	provisioner, err := newProvisioner(cfg, c, log)
	if err != nil {
		return syncer.Options{}, err
	}
	var reader intake.Reader = &provenReader{
		Reader: p.reader, tokenFile: cfg.GitLab.ReadTokenFile,
		prove: func(ctx context.Context) error { return proveIssuer(ctx, c.gitlabHTTP, cfg.GitLab.URL) },
	}
	if p.wrap != nil {
		reader = p.wrap(reader)
	}
	memory := snapshotsOf(c)
	if p.may != nil {
		memory.Blob.Before = func(context.Context) error { return p.may() }
	}
	var observe func(context.Context) (*rbacsync.Observed, error)
	if p.recorded {
		observe = lists(c, r)
	}
	return syncer.Options{
		Policy: r.Policy, Settings: r.Settings, Reserved: r.Reserved, Limits: r.Limits, Shipped: r.Shipped, Logger: r.Logger,
		Mode: p.mode, Interval: cfg.RBACSync.Interval.Duration, CI: provisioner,
		Reader: reader, Users: p.poller, Recent: p.recent, Inbox: p.inbox, Questions: p.reader, Reread: p.reader.RereadLinks,
		Kube: c.kube, Watch: c.watch, Dynamic: c.dynamic, DynamicWatch: c.follow, OwnNamespace: deploy.Namespace, Observe: observe,
		Apply: cluster.ApplyOptions{Concurrency: cfg.RBACSync.Concurrency, QPS: float32(cfg.RBACSync.WritesPerSecond), May: p.may, Progress: p.progress},
		Roles: p.roles, Fence: p.fence, Held: heldStore(c), Memory: memory,
		Now: time.Now, OnRound: p.onRound, OnWritten: p.written,
	}, nil
}

// lists returns an Options.Observe that lists what the cluster holds, for rules as they are returned by the func of that name.
func lists(c *clients, r syncer.Options) func(context.Context) (*rbacsync.Observed, error) {
	return func(ctx context.Context) (*rbacsync.Observed, error) {
		return cluster.New(cluster.Options{
			Kube: c.kube, Roles: r.Policy.ClusterRoles(), Templates: r.Settings.Templates, Dynamic: c.dynamic, OwnNamespace: deploy.Namespace, Logger: r.Logger,
		}).Observe(ctx, nil, true)
	}
}

// snapshotsOf is where the last Snapshot is kept.
func snapshotsOf(c *clients) store.Snapshots {
	return store.Snapshots{Blob: store.Blob{Client: c.kube, Namespace: deploy.Namespace, Name: store.NameSnapshot}}
}
