"""What several pages use.

pages            the pages, and links that restore a view
url_warnings     warnings about parameters that a page cannot show
ui               heading, error box, empty state, sidebar
pickers          the run pickers of all pages
actions          buttons that act once
label_form       the form of labels
queries          all that pages read of the results
watch            draws a part of a page again when its files have changed; a notice at a run's end
rate_charts      charts of rates
speed_charts     charts of speed-ups
learning_curve   the chart of loss or acceptance while training
slice_chart      the figure of slices
chart_parts      parts of figures
series_names     short names of series that keep what differs
theme            colours, marks of the fates, the Plotly template
tokens           tokens and rounds as HTML
downloads        charts and tables as files
printing         charts laid out for a column, a page, a slide
latex            tables for a paper
figure_data      the numbers of a chart as a table
kaleido_process  figures drawn by a process of their own
method_names     display names of methods
icon.svg         the icon
wordmark.svg     the wordmark
"""
