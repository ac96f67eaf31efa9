// Package migrate reads what other programs have left in a cluster that gave rights by GitLab before, and proposes which namespace
// belongs to which group, project or person, by numeric id: the integrator of 2018, and GitLab's certificate integration
// (docs/migrate.md). It computes from values alone.
//
// What it promises: a namespace is proposed only for one source, which GitLab has now, whose path in GitLab agrees with the name and
// with the label, and which nothing speaks against. Everything else is for a person to decide, with the reasons. Labels and names are
// not believed further than that, because tenants may have chosen them.
package migrate
