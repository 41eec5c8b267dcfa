// Package pattern codes log records as blocks: templates, typed columns of what varies in them, and small filters. A block is immutable, holds up to some
// ten thousand records of one project, and answers conditions from its parts, so that few lines are ever put together again.
//
// The ideas are those of CLP (Rodrigues et al., OSDI 2021) and Drain (He et al., ICWS 2017). Package lines keeps blocks in files.
package pattern
