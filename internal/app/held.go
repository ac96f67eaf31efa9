package app

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/deploy"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/config"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/store"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync"
)

// settings says what managed namespaces look like.
func settings(cfg *config.Config) (rbacsync.Settings, error) {
	s := rbacsync.Settings{
		PodSecurity: cfg.RBACSync.PodSecurity, PodSecurityFor: map[authz.SourceID]string{},
		CI: ciSettings(cfg),
	}
	for _, e := range cfg.RBACSync.PodSecurityExceptions {
		if id, ok := config.ParseSource(e.Source); ok {
			s.PodSecurityFor[id] = e.Level
		}
	}
	if cfg.RBACSync.Deletion.Policy == config.DeletionDelete {
		s.DeleteAfter = cfg.RBACSync.Deletion.Grace.Duration
	}
	for _, a := range cfg.RBACSync.Adopt {
		if id, ok := config.ParseSource(a.Source); ok {
			s.Adopt = append(s.Adopt, rbacsync.Adoption{Namespace: a.Namespace, Source: id, Path: a.Path})
		}
	}
	var err error
	s.Templates, err = templates(cfg)
	return s, err
}

// templates reads the manifests that namespaces get; nil without a folder.
func templates(cfg *config.Config) (*rbacsync.Templates, error) {
	c := cfg.RBACSync.Templates
	if c.Folder == "" {
		return nil, nil //nolint:nilnil // no templates is a good answer
	}
	kinds, err := templateKinds(cfg)
	if err != nil {
		return nil, err
	}
	t, err := rbacsync.LoadTemplates(os.DirFS(c.Folder), kinds)
	if err != nil {
		return nil, fmt.Errorf("rbacsync.templates.folder %s:\n  %s", c.Folder, strings.ReplaceAll(err.Error(), "\n", "\n  "))
	}
	return t, nil
}

func templateKinds(cfg *config.Config) ([]rbacsync.TemplateKind, error) {
	kinds := make([]rbacsync.TemplateKind, 0, len(cfg.RBACSync.Templates.Kinds))
	for _, k := range cfg.RBACSync.Templates.Kinds {
		kind, err := rbacsync.ParseTemplateKind(k)
		if err != nil {
			return nil, err
		}
		kinds = append(kinds, kind)
	}
	return kinds, nil
}

// CheckFiles checks what a configuration refers to: the templates. The configuration may have faults, which config.Load
// has told: templates are not judged by kinds that can't be read.
func CheckFiles(cfg *config.Config) error {
	if _, err := templateKinds(cfg); err != nil {
		return nil
	}
	_, err := templates(cfg)
	return err
}

func limits(cfg *config.Config) *rbacsync.Limits {
	l := cfg.RBACSync.Limits
	if l.Disabled {
		return nil
	}
	return &rbacsync.Limits{
		PerGroup: rbacsync.Limit{Causes: l.PerGroup.Count, Fraction: l.PerGroup.Fraction},
		Overall:  rbacsync.Limit{Causes: l.Overall.Count, Fraction: l.Overall.Fraction},
		Policy:   rbacsync.Limit{Causes: l.Policy.Count, Fraction: l.Policy.Fraction},
		Window:   l.Window.Duration, Creations: l.CreationsPerHour, Exempt: l.CreationsExempt,
	}
}

func heldStore(c *clients) store.Held {
	return store.Held{Client: c.kube, Namespace: deploy.Namespace}
}

// Held prints what the running integrator holds back, and returns how many changes that are.
func Held(ctx context.Context, cfg *config.Config, out io.Writer) (int, error) {
	c, err := connect(cfg)
	if err != nil {
		return 0, err
	}
	items, err := heldStore(c).Load(ctx)
	if err != nil {
		return 0, explainKube(err)
	}
	_, err = io.WriteString(out, rbacsync.HeldText(items))
	return len(items), err
}

// Approve approves what is held under a hash that Held printed.
func Approve(ctx context.Context, cfg *config.Config, hash string, out io.Writer) error {
	c, err := connect(cfg)
	if err != nil {
		return err
	}
	items, err := heldStore(c).Approve(ctx, hash)
	if err != nil {
		return explainKube(err)
	}
	_, err = fmt.Fprintf(out, "approved: %d changes; the next round makes them\n", len(items))
	return err
}
