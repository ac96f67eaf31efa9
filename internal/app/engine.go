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
}

// newEngine puts the engine together.
func newEngine(cfg *config.Config, c *clients, log *slog.Logger, p engineParts) (*syncer.Syncer, error) {
	policy, err := cfg.Authz.Policy()
	if err != nil {
		return nil, err
	}
	set, err := settings(cfg)
	if err != nil {
		return nil, err
	}
	provisioner, err := newProvisioner(cfg, c, log)
	if err != nil {
		return nil, err
	}
	jobRules, err := deploy.RulesOf(kubename.CIClusterRole)
	if err != nil {
		return nil, err
	}
	return syncer.New(syncer.Options{
		Mode: p.mode, Interval: cfg.RBACSync.Interval.Duration, Policy: policy, Settings: set, Reserved: cfg.Authz.ReservedNames,
		Reader: &provenReader{
			Reader: p.reader, tokenFile: cfg.GitLab.ReadTokenFile,
			prove: func(ctx context.Context) error { return proveIssuer(ctx, c.gitlabHTTP, cfg.GitLab.URL) },
		},
		Users: p.poller, Recent: p.recent, Inbox: p.inbox,
		Kube: c.kube, Watch: c.watch, Dynamic: c.dynamic, DynamicWatch: c.follow, OwnNamespace: deploy.Namespace,
		Apply: cluster.ApplyOptions{Concurrency: cfg.RBACSync.Concurrency, QPS: float32(cfg.RBACSync.WritesPerSecond), May: p.may, Progress: p.progress},
		Roles: p.roles, Shipped: map[string][]rbacv1.PolicyRule{kubename.CIClusterRole: jobRules}, Fence: p.fence,
		Questions: p.reader, Reread: p.reader.RereadLinks, Limits: limits(cfg), Held: heldStore(c), Memory: snapshotsOf(c), CI: provisioner,
		Now: time.Now, Logger: log, OnRound: p.onRound,
	})
}

// snapshotsOf is where the last Snapshot is kept.
func snapshotsOf(c *clients) store.Snapshots {
	return store.Snapshots{Blob: store.Blob{Client: c.kube, Namespace: deploy.Namespace, Name: store.NameSnapshot}}
}
