/* A line chart as inline SVG: axes with ticks, noisy series thin with their smoothed course on top, values under the pointer by the script
 * of the page (report.c), which finds them in a JSON beside the chart. */
#ifndef FS_TRAIN_CHART_H
#define FS_TRAIN_CHART_H

#include "base/base.h"

enum { FS_CHART_SERIES = 16, FS_CHART_NOISY = 100 /* points from which a series is smoothed */ };

typedef struct fs_chart_series {
    const char *label;
    int color;            /* index into the page's colours */
    const int64_t *steps; /* [count], rising */
    const double *values; /* [count]; NaN: none at this step */
    size_t count;
} fs_chart_series;

typedef struct fs_chart {
    int id; /* of the page's charts */
    const char *title;
    double scale;          /* values are multiplied with it before they are shown */
    bool from_zero, exact; /* the y axis begins at 0; nothing to smooth */
    int64_t first, last;   /* steps that the x axis spans */
    fs_chart_series series[FS_CHART_SERIES];
    int count;
} fs_chart;

void fs_chart_html(fs_buffer *out, const fs_chart *c); /* a <figure> */
void fs_html_escape(fs_buffer *out, const char *text);

/* The course of a noisy series: means over about a fiftieth of it, taken twice. False: out of memory. */
bool fs_smooth(const double *values, size_t count, double *out);
size_t fs_series_points(const double *values, size_t count); /* that are numbers */

#endif
