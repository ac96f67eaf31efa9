package app

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/config"
)

// lookEvery is how often the configuration file is read. It is read rather than watched: that works for a mounted ConfigMap,
// whose links are swapped, as for a file that an editor replaces, and on every file system.
const lookEvery = 5 * time.Second

// File is where the configuration of a running process comes from.
type File struct {
	Path   string
	Config *config.Config   // as it was read for the start
	Now    <-chan os.Signal // each asks to look at the file now
	Every  time.Duration    // default lookEvery
}

// ServeFile is Serve with a configuration that may change. What can't be taken over while the process runs (config.Effect),
// and what is faulty, is not: all of the configuration before stays in use, and a finding, a metric and the log say so.
func ServeFile(ctx context.Context, file File, log *slog.Logger, more ...prometheus.Collector) error {
	s, err := newServer(file.Config, log, more...)
	if err != nil {
		return err
	}
	return s.run(ctx, func(ctx, serving context.Context) { (&reloader{s: s, file: file}).run(ctx, serving) })
}

// reloader looks at the file. It alone replaces the generation of its server.
type reloader struct {
	s     *server
	file  File
	seen  string // what the last look saw
	fault string // why the file is not in use; "": it is
}

func (r *reloader) run(ctx, serving context.Context) {
	every := r.file.Every
	if every <= 0 {
		every = lookEvery
	}
	t := time.NewTicker(every)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.file.Now:
			r.look(ctx, serving, true)
		case <-t.C:
			r.look(ctx, serving, false)
		}
	}
}

// look takes over what the file says. Unless somebody asks for it, it does so only if the file was the same at the look
// before: whoever writes it in place may not be done, and the beginning of a file can be a whole one that says less.
func (r *reloader) look(ctx, serving context.Context, asked bool) {
	cfg, print, err := r.read()
	settled := asked || print == r.seen
	r.seen = print
	if !settled {
		return
	}
	log := r.s.log.With("config", r.file.Path)
	taken, why, err := r.decide(serving, cfg, err)
	r.s.refuse(why)
	if err != nil {
		if asked || r.fault != err.Error() {
			log.ErrorContext(ctx, "the configuration file is not in use, the configuration before stays", "error", err)
		}
		r.fault = err.Error()
		return
	}
	back := r.fault != ""
	r.fault = ""
	switch {
	case len(taken) > 0:
		r.s.metrics.ConfigTaken(time.Now())
		log.InfoContext(ctx, "configuration taken over", "changed", []string(taken), "readsAll", len(taken.With(config.Reread)) > 0)
	case back:
		log.InfoContext(ctx, "the configuration file is as the configuration in use again")
	case asked:
		log.InfoContext(ctx, "the configuration file has not changed")
	}
}

// decide takes over what was read, and returns the keys that this changes; or why not, for the log and as a finding. The
// finding does not have the faults: they can repeat what is in the file, and findings are kept in the cluster.
func (r *reloader) decide(serving context.Context, cfg *config.Config, err error) (config.Changes, *authz.Finding, error) {
	text := "the configuration file " + r.file.Path + " is not in use, the configuration before stays: "
	if err != nil {
		return nil, &authz.Finding{Code: "config_faulty", Text: text + "it is faulty; the log and `gl-k8s-integrator check-config` tell each fault"}, err
	}
	if keys := strings.Join(config.Compare(r.s.now.Load().cfg, cfg).With(config.Restart), ", "); keys != "" {
		return nil, &authz.Finding{Code: "config_restart", Text: text + keys + " can't be changed while the process runs: restart it, or take that back"},
			fmt.Errorf("changed: %s: restart the process, or take that back", keys)
	}
	taken, err := r.take(serving, cfg)
	if err != nil {
		return nil, &authz.Finding{Code: "config_faulty", Text: text + "it can't be taken over; the log tells why"}, err
	}
	return taken, nil, nil
}

// read returns what the file says, and a text that is another one whenever the file or the templates are.
func (r *reloader) read() (cfg *config.Config, print string, err error) {
	cfg, err = config.Load(r.file.Path)
	if err != nil {
		return nil, err.Error(), err
	}
	content, err := json.Marshal(cfg)
	return cfg, string(content) + templatesPrint(cfg), err
}

// take makes the configuration the one in use, and returns in what it differs from the one before.
func (r *reloader) take(serving context.Context, cfg *config.Config) (config.Changes, error) {
	const folder = "rbacsync.templates.folder"
	old := r.s.now.Load()
	changes := config.Compare(old.cfg, cfg)
	if templatesPrint(cfg) != old.core.templates && !slices.Contains(changes, folder) {
		changes = append(changes, folder)
	}
	if len(changes) == 0 {
		return nil, nil
	}
	next, err := r.s.newGeneration(cfg, old, len(changes.With(config.Reread)) > 0)
	if err == nil {
		err = r.s.replace(serving, next)
	}
	return changes, err
}

// refuse notes why the file is not in use; nil: it is.
func (s *server) refuse(f *authz.Finding) {
	s.metrics.ConfigDiffers(f != nil)
	if old := s.refused.Swap(f); (old == nil) != (f == nil) || old != nil && *old != *f {
		s.rounds.Rouse()
	}
}

// findings returns those that no round makes.
func (s *server) findings() []authz.Finding {
	out := explainFindings(s.now.Load().cfg.Authz.Explain)
	if f := s.refused.Load(); f != nil {
		out = append(out, *f)
	}
	return out
}
